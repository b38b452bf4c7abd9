#!/usr/bin/env python3
"""Has pywa, a WhatsApp library that we did not write, use the emulated Graph as it would use the real one.

The first argument is the program built by `cargo build -p sauti-sim --example ask_graph`. Its pipes stand in for
HTTPS: pywa's own HTTP client makes every request. Fails on whatever pywa cannot do or is told otherwise than by Meta.
Needs pywa 4.5.0.
"""

import base64
import logging
import subprocess
import sys
import warnings

import httpx
from pywa import WhatsApp, errors
from pywa.types.calls import CallingSettings, CallingSettingsStatus, CallPermissions, SessionDescription

PHONE_NUMBER_ID = "100000000000002"
NUMBER, OTHER_NUMBER = "250780000001", "250780000002"
BSUID = "RW.13491208655302741918"

ANSWER = "\r\n".join(
    [
        "v=0",
        "o=- 4611732891726351234 2 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE audio",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 126",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:pywaufrag",
        "a=ice-pwd:pywapasswordpywapassword",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
        "a=setup:active",
        "a=mid:audio",
        "a=sendrecv",
        "a=rtcp-mux",
        "a=rtpmap:111 opus/48000/2",
        "a=rtpmap:126 telephone-event/8000",
        "a=ptime:20",
        "a=candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host",
        "",
    ]
)


class Pipes(httpx.BaseTransport):
    """Carries pywa's requests to the emulator."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.calls = [self.process.stdout.readline().strip() for _ in range(2)]

    def handle_request(self, request):
        path = request.url.raw_path.decode()
        body = base64.b64encode(request.read()).decode()
        line = "\t".join([request.method, path, request.headers.get("authorization", ""), body])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        status, encoded = self.process.stdout.readline().rstrip("\n").split("\t")
        headers = {"content-type": "application/json"}
        return httpx.Response(int(status), headers=headers, content=base64.b64decode(encoded), request=request)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=10)


def client(pipes, token="canary-whatsapp-token"):
    return WhatsApp(phone_id=PHONE_NUMBER_ID, token=token, session=httpx.Client(transport=pipes))


def refused(code, act):
    """Runs `act`, which must be refused with this code."""
    try:
        act()
    except errors.WhatsAppError as error:
        assert error.code == code, f"code {error.code}, not {code}: {error.details}"
        assert error.fbtrace_id, "no fbtrace_id"
        return
    raise AssertionError(f"not refused with {code}")


def main():
    warnings.simplefilter("error")
    logging.disable(logging.CRITICAL)
    pipes = Pipes(sys.argv[1])
    wa = client(pipes)
    first, second = pipes.calls
    answer = SessionDescription(sdp_type="answer", sdp=ANSWER)
    steps = []

    def step(name, act):
        try:
            act()
            steps.append((name, None))
        except Exception as error:
            steps.append((name, f"{type(error).__name__}: {error}"))

    def done(result):
        assert result.success is True, result

    three = ANSWER.replace("a=setup", "a=fingerprint:sha-512 AB\r\na=fingerprint:sha-384 AB\r\na=setup")
    offer = SessionDescription(sdp_type="offer", sdp=ANSWER)
    other = SessionDescription(sdp_type="answer", sdp=ANSWER.replace("pywaufrag", "elseufrag"))
    step("a wrong token is refused", lambda: refused(190, lambda: client(pipes, "x").terminate_call(first)))
    step(
        "three fingerprints are refused",
        lambda: refused(138008, lambda: wa.pre_accept_call(first, SessionDescription(sdp_type="answer", sdp=three))),
    )
    step("sdp_type offer is refused", lambda: refused(100, lambda: wa.pre_accept_call(first, offer)))
    step("pre-accept", lambda: done(wa.pre_accept_call(first, answer)))
    step("accept with another SDP is refused", lambda: refused(100, lambda: wa.accept_call(first, other)))
    step("accept", lambda: done(wa.accept_call(first, answer, tracker="call-1")))
    step("a second accept is refused", lambda: refused(100, lambda: wa.accept_call(first, answer)))
    step("terminate", lambda: done(wa.terminate_call(first)))
    step("a second terminate is refused", lambda: refused(100, lambda: wa.terminate_call(first)))
    step("reject", lambda: done(wa.reject_call(second)))
    step("an unknown call is refused", lambda: refused(100, lambda: wa.reject_call("wacid.HBgMunknown")))

    def text(to):
        sent = wa.send_message(to=to, text="Sorry!", tracker="call-1")
        assert sent.id.startswith("wamid."), sent.id

    step("a text to a number", lambda: text(NUMBER))
    step("a text to a BSUID", lambda: text(BSUID))
    step("a text to a stranger is refused", lambda: refused(131047, lambda: text("35699000009")))
    step("read receipt", lambda: done(wa.mark_message_as_read("wamid.HBgM")))
    def permissions():
        # pywa 4.5.0's own wrapper forgets an argument of the call beneath it.
        told = wa.api.get_call_permissions(phone_id=PHONE_NUMBER_ID, user_wa_id=NUMBER, recipient=None)
        permissions = CallPermissions.from_dict(told)
        assert permissions.permission.status.value == "no_permission" and len(permissions.actions) == 2, permissions

    step("permissions", permissions)
    step("a call without permission is refused", lambda: refused(138006, lambda: wa.initiate_call(OTHER_NUMBER, offer)))

    def settings():
        done(wa.update_business_phone_number_settings(calling=CallingSettings(status=CallingSettingsStatus.DISABLED)))
        shown = wa.get_business_phone_number_settings().calling
        assert shown.status == CallingSettingsStatus.DISABLED, shown

    step("settings are set and read", settings)
    step("calling is off then", lambda: refused(138000, lambda: wa.reject_call(second)))
    pipes.close()
    for name, error in steps:
        print(f"  {'FAILED' if error else 'ok'}: {name}{': ' + error if error else ''}")
    return 1 if any(error for _, error in steps) else 0


if __name__ == "__main__":
    sys.exit(main())
