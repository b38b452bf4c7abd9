#!/usr/bin/env python3
"""Has pywa, a WhatsApp library that we did not write, read the webhook bodies of the emulated WhatsApp.

Reads the lines of `cargo run -p sauti-sim --example emit_webhooks -- SECRET` on stdin and the secret as the first
argument. Each body must carry the signature that pywa computes. pywa reads the first change of a body only, so a
batch is taken apart and each change read alone. Known limits of pywa are counted and printed; anything else that it
cannot read fails the check. Needs pywa 4.5.0.
"""

import base64
import json
import logging
import sys
import warnings
from collections import Counter

from pywa import WhatsApp, utils
from pywa.types import (
    AccountUpdate,
    CallConnect,
    CallStatus,
    CallTerminate,
    Message,
    MessageStatus,
)
from pywa.types.base_update import RawUpdate

EXPECTED = {
    "connect": CallConnect,
    "terminate": CallTerminate,
    "call_status": CallStatus,
    "message_status": MessageStatus,
    "message": Message,
    "account_update": AccountUpdate,
}

# What pywa passes on unread: it knows neither these fields nor these events.
UNREAD = {"other_call_event", "errors", "settings", "unknown_field"}

PHONE_NUMBER_ID = "100000000000002"


def contact_limit(change, what):
    """Names the limit of pywa that this change runs into: it insists on contacts[0], and mostly on its user_id."""
    if what in UNREAD or what == "account_update":
        return None
    contacts = change["value"].get("contacts")
    if not contacts:
        return "contacts absent"
    if "user_id" not in contacts[0] and what != "message_status":
        return "contacts without user_id"
    return None


def read(client, raw):
    """Reads one body with one change; the parsed update, or None if pywa has no handler for it."""
    update = RawUpdate(raw, hmac_header=None, update_hash="")
    handler = client._get_handler_type(update)
    if handler is None:
        return None
    return client._handlers_to_updates[handler].from_update(client=client, update=update)


def check_values(kind, parsed, change):
    """Compares what pywa understood with what was written."""
    value = change["value"]
    if kind in ("connect", "terminate"):
        call = value["calls"][0]
        assert parsed.id == call["id"], "call id"
        assert parsed.metadata.phone_number_id == PHONE_NUMBER_ID, "phone_number_id"
        assert parsed.from_user.bsuid == value["contacts"][0]["user_id"], "user_id"
        assert str(int(parsed.timestamp.timestamp())) == call["timestamp"], "timestamp"
        assert parsed.direction.value == call["direction"], "direction"
    if kind == "connect":
        assert parsed.session.sdp == call["session"]["sdp"], "sdp"
        assert "\r\n" in parsed.session.sdp, "CRLF"
        assert parsed.session.sdp_type == call["session"]["sdp_type"], "sdp_type"
    if kind == "terminate":
        assert parsed.status.value == call["status"], "status"
        assert parsed.duration == call.get("duration"), "duration"
        assert parsed.tracker == call["biz_opaque_callback_data"], "tracker"
        assert (parsed.start_time is None) == ("start_time" not in call), "start_time"
        if value.get("errors"):
            assert parsed.error.code == value["errors"][0]["code"], "error code"
    if kind in ("call_status", "message_status"):
        status = value["statuses"][0]
        assert parsed.id == status["id"] and parsed.status.value == status["status"], "status"
    if kind == "message":
        assert parsed.text == value["messages"][0]["text"]["body"], "text"


def kind_of(change):
    """What a change is, told from its keys alone: a batch holds all kinds."""
    value = change["value"]
    if change["field"] == "account_update":
        return "account_update"
    if change["field"] == "account_settings_update":
        return "settings"
    if "calls" in value:
        event = value["calls"][0]["event"]
        return event if event in ("connect", "terminate") else "other_call_event"
    if "statuses" in value:
        return "call_status" if change["field"] == "calls" else "message_status"
    if "messages" in value:
        return "message"
    return "errors" if "errors" in value else "unknown_field"


def main():
    secret = sys.argv[1] if len(sys.argv) > 1 else "canary-app-secret"
    warnings.simplefilter("error")
    logging.disable(logging.WARNING)
    client = WhatsApp(phone_id=PHONE_NUMBER_ID, token="canary-whatsapp-token", filter_updates=False)
    parsed_kinds, limits, unread, failures = Counter(), Counter(), Counter(), []
    bodies = changes = 0
    for number, line in enumerate(sys.stdin, 1):
        kind, generation, signature, encoded = line.rstrip("\n").split("\t")
        raw = base64.b64decode(encoded)
        bodies += 1
        if not utils.webhook_updates_validator(app_secret=secret, request_body=raw, x_hub_signature=signature):
            failures.append(f"line {number} ({kind}, {generation}): pywa refuses the signature")
        if utils.webhook_updates_validator(app_secret=secret, request_body=raw + b" ", x_hub_signature=signature):
            failures.append(f"line {number} ({kind}, {generation}): pywa takes the signature of another body")
        envelope = json.loads(raw)
        for change in envelope["entry"][0]["changes"]:
            changes += 1
            what = kind_of(change)
            if kind not in ("batch", what):
                failures.append(f"line {number}: called {kind}, but is {what}")
            alone = dict(envelope, entry=[dict(envelope["entry"][0], changes=[change])])
            body = raw if kind != "batch" else json.dumps(alone).encode()
            limit = contact_limit(change, what)
            try:
                with warnings.catch_warnings():
                    if what == "other_call_event":
                        warnings.simplefilter("ignore")
                    parsed = read(client, body)
                if limit:
                    failures.append(f"line {number} ({what}, {generation}): pywa reads it, so {limit!r} is no limit")
                elif what in UNREAD:
                    if parsed is not None:
                        failures.append(f"line {number}: pywa reads {what} as {type(parsed).__name__}; check it")
                    unread[what] += 1
                elif not isinstance(parsed, EXPECTED[what]):
                    failures.append(f"line {number} ({what}, {generation}): read as {type(parsed).__name__}")
                else:
                    check_values(what, parsed, change)
                    parsed_kinds[what] += 1
            except Exception as error:
                if limit and isinstance(error, KeyError) and error.args[0] in ("user_id", "contacts"):
                    limits[f"{what}, {limit}: {type(error).__name__} {error}"] += 1
                else:
                    failures.append(f"line {number} ({what}, {generation}): {type(error).__name__}: {error}")
    print(f"{bodies} bodies with {changes} changes")
    for title, counter in (("read", parsed_kinds), ("passed on unread", unread), ("known limit of pywa", limits)):
        for name, count in sorted(counter.items()):
            print(f"  {title}: {name}: {count}")
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    needed = set(EXPECTED) - set(parsed_kinds)
    if needed:
        print(f"FAILED nothing of kind {sorted(needed)} was read", file=sys.stderr)
    return 1 if failures or needed or not limits else 0


if __name__ == "__main__":
    sys.exit(main())
