#!/usr/bin/env python3
"""A caller that nobody here wrote: aiortc, its microphone fed from a file.

    aiortc_caller.py --signal URL --speech FILE.wav --out PREFIX [--seconds 20] [--speak-after MS]

Same role, files and exit codes as browser_caller.js: the offer goes to the signalling desk at URL (README.md beside
this file), PREFIX.wav is what was heard at 48 kHz mono, PREFIX.json the figures. aiortc gathers no loopback addresses:
run it in a network namespace (netns.sh) or where another interface reaches the far end.
"""

import argparse
import asyncio
import sys
import time
from urllib.parse import quote

import aiohttp
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from rtc_desk import Microphone, Recorder, both_ways, packets, write

ANSWER_WITHIN = 15.0
CONNECT_WITHIN = 15.0


async def fetch_answer(http, signal, sdp):
    """Posts the offer and waits for the answer: (call id, answer)."""
    async with http.post(f"{signal}/offer", json={"type": "offer", "sdp": sdp}) as reply:
        if reply.status != 201:
            raise RuntimeError(f"the desk answered {reply.status} to the offer: {await reply.text()}")
        call = (await reply.json())["call"]
    until = time.monotonic() + ANSWER_WITHIN
    while time.monotonic() < until:
        async with http.get(f"{signal}/answer?call={quote(call)}") as reply:
            if reply.status == 200:
                return call, await reply.json()
            if reply.status != 204:
                raise RuntimeError(f"the call was refused: {reply.status} {await reply.text()}")
        await asyncio.sleep(0.02)
    raise RuntimeError(f"no answer within {ANSWER_WITHIN} s")


async def connected(connection):
    """Waits until ICE and DTLS are up."""
    until = time.monotonic() + CONNECT_WITHIN
    while connection.connectionState != "connected":
        if connection.connectionState == "failed":
            raise RuntimeError("ICE or DTLS failed")
        if time.monotonic() > until:
            raise RuntimeError(f"not connected within {CONNECT_WITHIN} s: {connection.connectionState}")
        await asyncio.sleep(0.01)


async def place_call(task):
    begun = time.monotonic()
    times = {}

    def mark(name):
        times.setdefault(name, round((time.monotonic() - begun) * 1000))

    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    microphone, recorder = Microphone(task.speech), Recorder()
    connection.addTrack(microphone)
    connection.on("track", recorder.follow)
    await connection.setLocalDescription(await connection.createOffer())
    mark("offered")
    async with aiohttp.ClientSession() as http:
        call, answer = await fetch_answer(http, task.signal, connection.localDescription.sdp)
        mark("answered")
        await connection.setRemoteDescription(RTCSessionDescription(sdp=answer["sdp"], type="answer"))
        await connected(connection)
        mark("connected")
        until = time.monotonic() + task.seconds
        await asyncio.sleep(task.speak_after / 1000)
        microphone.speak()
        mark("speaking")
        while time.monotonic() < until and connection.connectionState == "connected":
            await asyncio.sleep(0.05)
        counts = await packets(connection)
        ended = connection.connectionState
        await connection.close()
        try:
            await http.post(f"{task.signal}/bye?call={quote(call)}")
        except aiohttp.ClientError:
            pass  # The desk may be gone when the far end hung up first.
    return write(task.out, recorder.samples(), {"call": call, "times_ms": times, "ended": ended, **counts})


def main():
    parser = argparse.ArgumentParser(description="aiortc as a caller")
    parser.add_argument("--signal", required=True, type=lambda url: url.rstrip("/"))
    parser.add_argument("--speech", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--speak-after", type=float, default=0)
    try:
        wrong = both_ways(asyncio.run(place_call(parser.parse_args())))
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        wrong = str(error)
    if wrong:
        sys.exit(f"aiortc_caller: {wrong}")


if __name__ == "__main__":
    main()
