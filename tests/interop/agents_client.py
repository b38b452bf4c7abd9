#!/usr/bin/env python3
"""Talks to an emulated Realtime server with `openai-agents`, whose runner validates every event that it gets.

    agents_client.py --url ws://127.0.0.1:PORT/v1/realtime --speech TURN.wav [--speech TURN2.wav …]
                     [--model NAME] [--key KEY]

Each file is one turn, played in real time; the agent must answer each with audio. An error, an exception, a guardrail
or a validation failure fails the run.
Prints one JSON object. Exit 0: all turns answered, no finding. 1: findings, listed in it and on stderr.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from importlib.metadata import version

os.environ.setdefault("OPENAI_AGENTS_DISABLE_TRACING", "1")

from agents.realtime import RealtimeAgent, RealtimeRunner  # noqa: E402

from pcm import pieces, read_pcm  # noqa: E402

TURN_WITHIN = 30.0


class Complaints(logging.Handler):
    """The package reports what it cannot validate to its log too; that must not be lost."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.found = []

    def emit(self, record):
        self.found.append(f"log: {record.getMessage()[:200]}")


class Conversation:
    def __init__(self):
        self.findings = []
        self.counts = {}
        self.audio_bytes = 0
        self.answered = 0
        self.news = asyncio.Condition()

    async def listen(self, session):
        async for event in session:
            self.counts[event.type] = self.counts.get(event.type, 0) + 1
            if event.type == "error":
                self.findings.append(f"error: {event.error}")
            elif event.type == "guardrail_tripped":
                self.findings.append("a guardrail tripped")
            elif event.type == "audio":
                self.audio_bytes += len(event.audio.data)
            elif event.type == "raw_model_event":
                self.take_raw(event.data)
            async with self.news:
                if event.type == "agent_end":
                    self.answered += 1
                self.news.notify_all()

    def take_raw(self, event):
        if event.type in ("error", "exception"):
            self.findings.append(f"{event.type}: {getattr(event, 'error', None) or getattr(event, 'exception', None)}")

    async def wait_for_answer(self, number):
        async with self.news:
            await asyncio.wait_for(
                self.news.wait_for(lambda: self.answered >= number or self.findings), TURN_WITHIN
            )


async def converse(task, conversation):
    settings = {
        "model_name": task.model,
        "output_modalities": ["audio"],
        "audio": {
            "input": {
                "format": "pcm16",
                "transcription": {"model": "gpt-transcribe"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 500, "interrupt_response": True},
            },
            "output": {"format": "pcm16", "voice": "marin"},
        },
    }
    agent = RealtimeAgent(name="caller", instructions="You are a helpful assistant on the phone.")
    runner = RealtimeRunner(agent, config={"tracing_disabled": True})
    url = f"{task.url}?model={task.model}" if "?" not in task.url else task.url
    model = {"url": url, "api_key": task.key, "initial_model_settings": settings}
    async with await runner.run(model_config=model) as session:
        ear = asyncio.create_task(conversation.listen(session))
        for number, path in enumerate(task.speech, start=1):
            begun = time.monotonic()
            for at, piece in enumerate(pieces(read_pcm(path))):
                await session.send_audio(piece)
                await asyncio.sleep(max(0.0, begun + at * 0.02 - time.monotonic()))
            await conversation.wait_for_answer(number)
            if conversation.findings:
                break
        ear.cancel()


def main():
    parser = argparse.ArgumentParser(description="openai-agents as a client of an emulated Realtime server")
    parser.add_argument("--url", required=True)
    parser.add_argument("--speech", required=True, action="append")
    parser.add_argument("--model", default="gpt-realtime-2.1")
    parser.add_argument("--key", default="canary-openai-key")
    task = parser.parse_args()
    complaints = Complaints()
    logging.getLogger("openai.agents").addHandler(complaints)
    conversation = Conversation()
    try:
        asyncio.run(converse(task, conversation))
    except Exception as error:  # Whatever the package raises is a finding of this check.
        conversation.findings.append(f"{type(error).__name__}: {error}")
    findings = conversation.findings + complaints.found
    if conversation.answered < len(task.speech):
        findings.append(f"{conversation.answered} of {len(task.speech)} turns were answered")
    if not conversation.audio_bytes:
        findings.append("no audio came")
    result = {
        "openai-agents": version("openai-agents"),
        "answered": conversation.answered,
        "audio_s": round(conversation.audio_bytes / 48000, 2),
        "counts": conversation.counts,
    }
    print(json.dumps({**result, "findings": findings}))
    for finding in findings:
        print(f"agents_client: {finding}", file=sys.stderr)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
