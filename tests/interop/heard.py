#!/usr/bin/env python3
"""What a telephone was sent, out of a capture: packets by tshark, G.711 by libsndfile.

    heard.py CAPTURE.pcapng PORT[,PORT…] OUT.wav

RTP that went to these ports, A-law and µ-law, each packet laid where its timestamp puts it (8 kHz; what is missing is
silence). The table of RTP streams is tshark's own (`rtp,streams`), read here for whoever judges it.
Prints one JSON object: `streams`, with `ssrc`, `port`, `packets`, `lost`, `mean_delta_ms`; and `sources`: by SSRC the
payload types, packet lengths in ms, ports in their order, and the longest pause between two packets.
Exit 0: done. 1: nothing was sent there. 2: unreadable input or wrong arguments.
"""

import io
import json
import re
import subprocess
import sys

import numpy
import soundfile

RATE = 8000
LAWS = {0: "ULAW", 8: "ALAW"}
FIELDS = ["frame.time_epoch", "udp.dstport", "rtp.ssrc", "rtp.timestamp", "rtp.p_type", "rtp.payload"]
STREAM = re.compile(
    r"^\s*[\d.]+\s+[\d.]+\s+(?P<source>\S+)\s+\d+\s+(?P<to>\S+)\s+(?P<port>\d+)\s+(?P<ssrc>0x\w+)\s+\S+\s+"
    r"(?P<packets>\d+)\s+(?P<lost>-?\d+) \([-\d.]+%\)\s+[-\d.]+\s+(?P<mean>[-\d.]+)\s"
)


def tshark(capture, ports, *arguments):
    heuristic = [word for port in ports for word in ("-d", f"udp.port=={port},rtp")]
    command = ["tshark", "-n", "-r", capture, *heuristic, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def streams(capture, ports):
    found = []
    for line in tshark(capture, ports, "-q", "-z", "rtp,streams").splitlines():
        row = STREAM.match(line)
        if row and int(row["port"]) in ports:
            found.append(
                {
                    "ssrc": row["ssrc"],
                    "port": int(row["port"]),
                    "packets": int(row["packets"]),
                    "lost": int(row["lost"]),
                    "mean_delta_ms": float(row["mean"]),
                }
            )
    return found


def packets(capture, ports):
    wanted = " || ".join(f"udp.dstport == {port}" for port in ports)
    columns = [word for field in FIELDS for word in ("-e", field)]
    # RTCP shares a port with RTP sometimes; read as RTP its types are none of ours.
    for line in tshark(capture, ports, "-Y", f"rtp && ({wanted})", "-T", "fields", *columns).splitlines():
        at, port, ssrc, timestamp, kind, payload = line.split("\t")
        if kind.isdigit() and int(kind) in LAWS:
            payload = bytes.fromhex(payload.replace(":", ""))
            yield float(at), int(port), ssrc, int(timestamp), int(kind), payload


def decoded(kind, payload):
    samples, _ = soundfile.read(
        io.BytesIO(payload), format="RAW", subtype=LAWS[kind], samplerate=RATE, channels=1, dtype="int16"
    )
    return samples


def main():
    try:
        _, capture, ports, out = sys.argv
        ports = [int(port) for port in ports.split(",")]
    except ValueError:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    try:
        sent = list(packets(capture, ports))
        table = streams(capture, ports)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        print(f"heard: {error} {getattr(error, 'stderr', '')}", file=sys.stderr)
        sys.exit(2)
    if not sent:
        print(f"heard: nothing was sent to {ports}", file=sys.stderr)
        sys.exit(1)
    sources = {}
    for at, port, ssrc, _, kind, payload in sent:
        one = sources.setdefault(ssrc, {"types": [], "lengths_ms": [], "ports": [], "last": at, "longest_pause_ms": 0})
        for name, value in (("types", kind), ("lengths_ms", len(payload) * 1000 // RATE), ("ports", port)):
            if value not in one[name]:
                one[name].append(value)
        one["longest_pause_ms"] = max(one["longest_pause_ms"], round((at - one["last"]) * 1000))
        one["last"] = at
    # The recording is of the source that said most; a second one is for the judge to object to.
    loudest = max(sources, key=lambda ssrc: sum(packet[2] == ssrc for packet in sent))
    own = [packet for packet in sent if packet[2] == loudest]
    first = own[0][3]
    places = [((packet[3] - first + 2**31) % 2**32 - 2**31, decoded(packet[4], packet[5])) for packet in own]
    recording = numpy.zeros(max(place + len(samples) for place, samples in places), "int16")
    for place, samples in places:
        if place >= 0:
            recording[place : place + len(samples)] = samples
    soundfile.write(out, recording, RATE, subtype="PCM_16")
    for one in sources.values():
        del one["last"]
    print(json.dumps({"streams": table, "sources": sources}))


if __name__ == "__main__":
    main()
