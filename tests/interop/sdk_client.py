#!/usr/bin/env python3
"""Talks to an emulated Realtime server with the official `openai` client and judges every event that it sends.

    sdk_client.py --url ws://127.0.0.1:PORT/v1 --speech TURN.wav [--speech TURN2.wav …] [--model NAME] [--key KEY]

Connects, configures the session, asks for a greeting, then plays each file as one turn, in real time, and waits for the
response to it. Every server event must be accepted by the package's own types under strict validation, with no key that
they do not know; order is checked where the protocol fixes it. Ends with a truncate, a provoked error and a clean close.
Prints one JSON object. Exit 0: no finding. 1: findings, listed in it and on stderr.
"""

import argparse
import asyncio
import base64
import json
import sys
import time

import openai
from openai import AsyncOpenAI

from pcm import pieces, read_pcm
from sdk_strict import problems

TURN_WITHIN = 30.0


class Listener:
    """Reads everything from the connection, judges it and lets others wait for it."""

    def __init__(self, connection):
        self.connection = connection
        self.findings = []
        self.counts = {}
        self.events = []
        self.news = asyncio.Condition()
        self.open = {}
        self.audio = {}
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                await self._take(await self.connection.recv_bytes())
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code not in (1000, 1001):
                self.findings.append(f"closed with {closed.rcvd.code} {closed.rcvd.reason}")
        async with self.news:
            self.open = None
            self.news.notify_all()

    async def _take(self, data):
        text = data.decode() if isinstance(data, bytes) else data
        event = json.loads(text)
        kind = event.get("type", "?")
        self.findings += [f"{kind}: {wrong}" for wrong in problems(text, "server")]
        self._check_order(kind, event)
        async with self.news:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.events.append((kind, event))
            self.news.notify_all()

    def _check_order(self, kind, event):
        if not self.events and kind != "session.created":
            self.findings.append(f"the first event is {kind}, not session.created")
        if kind == "response.created":
            self.open[event["response"]["id"]] = 0
        elif kind == "response.done":
            if self.open.pop(event["response"]["id"], None) is None:
                self.findings.append("response.done of a response that is not open")
        elif kind.startswith("response.") and "response_id" in event and event["response_id"] not in self.open:
            self.findings.append(f"{kind} outside of its response")
        if kind == "response.output_audio.delta":
            held = self.audio.setdefault(event["item_id"], 0)
            self.audio[event["item_id"]] = held + len(base64.b64decode(event["delta"], validate=True))

    async def wait(self, wanted, since=0, within=TURN_WITHIN):
        """The first event from index `since` on for which `wanted(kind, event)`; its index and itself."""

        def look():
            hits = ((at, event) for at, (kind, event) in enumerate(self.events) if at >= since and wanted(kind, event))
            return next(hits, None) or (self.open is None and "closed")

        async with self.news:
            hit = await asyncio.wait_for(self.news.wait_for(look), within)
        if hit == "closed":
            raise RuntimeError("the server closed the connection")
        return hit


async def converse(task):
    client = AsyncOpenAI(api_key=task.key, websocket_base_url=task.url.rstrip("/"), max_retries=0)
    async with client.realtime.connect(model=task.model) as connection:
        listener = Listener(connection)
        await listener.wait(lambda kind, _: kind == "session.created")
        await connection.session.update(session=session())
        await listener.wait(lambda kind, _: kind in ("session.updated", "error"))

        await connection.response.create(response={"instructions": "Say: Hello! How can I help you today?"})
        at, done = await listener.wait(lambda kind, _: kind == "response.done")
        turns = [summary(done)]
        for path in task.speech:
            await speak(connection, path)
            at, done = await listener.wait(lambda kind, _: kind == "response.done", at + 1)
            turns.append(summary(done))

        item, held = list(listener.audio.items())[-1]
        heard = held // 48 // 2
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=heard)
        await listener.wait(lambda kind, event: kind == "conversation.item.truncated" and event["item_id"] == item, at)
        errors = listener.counts.get("error", 0)
        await connection.conversation.item.delete(item_id="item_that_never_was", event_id="provoked")
        _, refused = await listener.wait(lambda kind, _: kind == "error", at)
        if refused["error"].get("event_id") != "provoked":
            listener.findings.append("the provoked error does not name its event_id")
        if errors:
            listener.findings.append(f"{errors} error events before the provoked one")
    await listener.task
    return listener, turns


def session():
    return {
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": "You are a helpful assistant on the phone.",
        "max_output_tokens": 1024,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "gpt-transcribe", "language": "en"},
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                    "create_response": True,
                    "interrupt_response": True,
                },
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"},
        },
    }


async def speak(connection, path):
    begun = time.monotonic()
    for at, piece in enumerate(pieces(read_pcm(path))):
        await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
        await asyncio.sleep(max(0.0, begun + at * 0.02 - time.monotonic()))


def summary(done):
    response = done["response"]
    return {"status": response.get("status"), "items": len(response.get("output") or [])}


def main():
    parser = argparse.ArgumentParser(description="the openai package as a client of an emulated Realtime server")
    parser.add_argument("--url", required=True)
    parser.add_argument("--speech", required=True, action="append")
    parser.add_argument("--model", default="gpt-realtime-2.1")
    parser.add_argument("--key", default="canary-openai-key")
    try:
        listener, turns = asyncio.run(converse(parser.parse_args()))
        findings, counts = listener.findings, listener.counts
    except (RuntimeError, OSError, asyncio.TimeoutError, openai.OpenAIError) as error:
        findings, counts, turns = [f"{type(error).__name__}: {error}"], {}, []
    for at, turn in enumerate(turns):
        if turn["status"] != "completed" or not turn["items"]:
            findings.append(f"response {at} is {turn['status']} with {turn['items']} items")
    result = {"openai": openai.__version__, "events": sum(counts.values()), "counts": counts, "turns": turns}
    print(json.dumps({**result, "findings": findings}))
    for finding in findings:
        print(f"sdk_client: {finding}", file=sys.stderr)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
