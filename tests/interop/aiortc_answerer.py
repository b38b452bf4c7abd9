#!/usr/bin/env python3
"""Answers one call with aiortc: the outside judge of the emulated caller, and a stand-in for the daemon.

    aiortc_answerer.py --speech FILE.wav --out PREFIX [--listen 127.0.0.1:0] [--seconds 20] [--speak-after MS]

Is itself a signalling desk (README.md beside this file) and prints its address as the first line, `desk http://…`.
Answers the first offer, speaks the file once, records what it hears, and ends with the call: after --seconds of
connection, at /bye, or when the media goes down. Files and exit codes as those of aiortc_caller.py.
"""

import argparse
import asyncio
import sys
import time

from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from rtc_desk import Microphone, Recorder, both_ways, packets, write

OFFER_WITHIN = 60.0
CONNECT_WITHIN = 15.0


class Desk:
    """The HTTP side: takes an offer, hands out the answer."""

    def __init__(self):
        self.offer = asyncio.get_running_loop().create_future()
        self.answer = None
        self.bye = asyncio.Event()

    def routes(self):
        app = web.Application()
        app.router.add_get("/", self.page)
        app.router.add_post("/offer", self.take_offer)
        app.router.add_get("/answer", self.give_answer)
        app.router.add_post("/bye", self.take_bye)
        return app

    async def page(self, _request):
        return web.Response(text="<!doctype html><title>desk</title>", content_type="text/html")

    async def take_offer(self, request):
        body = await request.json()
        if self.offer.done():
            return web.Response(status=409, text="one call only")
        self.offer.set_result(body["sdp"])
        return web.json_response({"call": "1"}, status=201)

    async def give_answer(self, _request):
        if self.answer is None:
            return web.Response(status=204)
        return web.json_response({"type": "answer", "sdp": self.answer})

    async def take_bye(self, _request):
        self.bye.set()
        return web.Response()


async def serve(task):
    desk = Desk()
    runner = web.AppRunner(desk.routes())
    await runner.setup()
    host, _, port = task.listen.rpartition(":")
    site = web.TCPSite(runner, host, int(port))
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"desk http://{host}:{port}", flush=True)
    try:
        return await take_call(desk, task)
    finally:
        await runner.cleanup()


async def take_call(desk, task):
    offer = await asyncio.wait_for(desk.offer, OFFER_WITHIN)
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    microphone, recorder = Microphone(task.speech), Recorder()
    connection.on("track", recorder.follow)
    await connection.setRemoteDescription(RTCSessionDescription(sdp=offer, type="offer"))
    connection.addTrack(microphone)
    await connection.setLocalDescription(await connection.createAnswer())
    begun = time.monotonic()
    desk.answer = connection.localDescription.sdp
    while connection.connectionState != "connected":
        if connection.connectionState == "failed" or time.monotonic() > begun + CONNECT_WITHIN:
            raise RuntimeError(f"not connected within {CONNECT_WITHIN} s: {connection.connectionState}")
        await asyncio.sleep(0.01)
    up = time.monotonic()
    await asyncio.sleep(task.speak_after / 1000)
    microphone.speak()
    while connection.connectionState == "connected" and not desk.bye.is_set() and time.monotonic() < up + task.seconds:
        await asyncio.sleep(0.05)
    counts = await packets(connection)
    ended = "bye" if desk.bye.is_set() else connection.connectionState
    await connection.close()
    times = {"connected": round((up - begun) * 1000)}
    return write(task.out, recorder.samples(), {"times_ms": times, "ended": ended, **counts})


def main():
    parser = argparse.ArgumentParser(description="aiortc as the answering side")
    parser.add_argument("--speech", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--speak-after", type=float, default=0)
    try:
        wrong = both_ways(asyncio.run(serve(parser.parse_args())))
    except (RuntimeError, OSError, asyncio.TimeoutError) as error:
        wrong = str(error) or f"no offer within {OFFER_WITHIN} s"
    if wrong:
        sys.exit(f"aiortc_answerer: {wrong}")


if __name__ == "__main__":
    main()
