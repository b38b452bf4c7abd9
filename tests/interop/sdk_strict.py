#!/usr/bin/env python3
"""Judges recorded Realtime frames by the strict types of the official `openai` package.

Reads lines from files or standard input: `> {...}` is what a client sent, `< {...}` what a server sent; lines that
begin with `!` are meant to be wrong and are skipped, as are empty ones. Lines without a mark are taken as given by
`--side`. Every event must pass `RealtimeClientEvent` or `RealtimeServerEvent` in strict mode. The package allows extra
keys, so every key is looked for as well: one that the types do not know fails, unless the allow-list below names it
with a reason.

    sdk_strict.py [--side client|server] [FILE ...]     exit 0 only if nothing is wrong
    sdk_strict.py --self-test                           planted bad events must all be refused

Needs: pip install openai
"""

import argparse
import collections
import json
import sys
from typing import Annotated

import openai
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

CLIENT = TypeAdapter(Annotated[RealtimeClientEvent, Field(discriminator="type")])
SERVER = TypeAdapter(Annotated[RealtimeServerEvent, Field(discriminator="type")])

# (event type, path of the key) -> why it may stand there although the package's types lack it.
SESSION = "the service sends the session's identity with it; the event types reuse the shape of a request"
ALLOWED = {
    (event, f"$.session.{key}"): SESSION
    for event in ("session.created", "session.updated")
    for key in ("id", "object", "expires_at")
}


def unknown_keys(model, raw, path="$"):
    """Yields the path of every key that the model took only because it takes anything."""
    if isinstance(model, BaseModel) and isinstance(raw, dict):
        known = type(model).model_fields
        names = {field.alias or name: name for name, field in known.items()}
        for key, value in raw.items():
            if key in names:
                yield from unknown_keys(getattr(model, names[key]), value, f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(model, list) and isinstance(raw, list):
        for index, (inner, value) in enumerate(zip(model, raw)):
            yield from unknown_keys(inner, value, f"{path}[{index}]")


def without_references(event):
    """`response.create` may refer to items; the plain client type has no such entry, so it is checked by hand."""
    entries = (event.get("response") or {}).get("input")
    if event.get("type") != "response.create" or not isinstance(entries, list):
        return event, []
    wrong = [
        f"$.response.input[{index}]: an item_reference is exactly {{type, id}}"
        for index, entry in enumerate(entries)
        if isinstance(entry, dict) and entry.get("type") == "item_reference"
        and not (set(entry) == {"type", "id"} and isinstance(entry["id"], str))
    ]
    rest = [e for e in entries if not (isinstance(e, dict) and e.get("type") == "item_reference")]
    return {**event, "response": {**event["response"], "input": rest}}, wrong


def problems(text, side):
    """Returns what is wrong with one frame, as a list of sentences."""
    try:
        event = json.loads(text)
    except ValueError as error:
        return [f"no JSON: {error}"]
    if not isinstance(event, dict):
        return ["no JSON object"]
    found = []
    if side == "client":
        event, found = without_references(event)
    adapter = CLIENT if side == "client" else SERVER
    try:
        model = adapter.validate_json(json.dumps(event), strict=True)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['type']}: {e['msg']}" for e in error.errors()[:4]]
        return found + lines
    kind = event.get("type")
    return found + [
        f"unknown key {path}" for path in unknown_keys(model, event) if (kind, path) not in ALLOWED
    ]


def judge(lines, side):
    """Checks all lines; returns counts by side and type, and the failures."""
    counts, failures = collections.Counter(), []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\n")
        if not line.strip() or line.startswith("!"):
            continue
        if line.startswith(("> ", "< ")):
            actual, text = ("client" if line[0] == ">" else "server"), line[2:]
        else:
            actual, text = side, line
        if actual is None:
            failures.append((number, "?", ["a line without > or < needs --side"]))
            continue
        found = problems(text, actual)
        try:
            kind = str(json.loads(text).get("type"))
        except (ValueError, AttributeError):
            kind = "?"
        counts[(actual, kind)] += 1
        if found:
            failures.append((number, f"{actual} {kind}", found))
    return counts, failures


GOOD = [
    ("client", {"type": "input_audio_buffer.append", "audio": "AAAA"}),
    ("client", {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 500}}}}}),
    ("client", {"type": "response.create", "response": {"conversation": "none", "input": [
        {"type": "item_reference", "id": "item_1"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Sum up."}]}]}}),
    ("server", {"type": "input_audio_buffer.speech_started", "event_id": "e", "audio_start_ms": 1, "item_id": "i"}),
    ("server", {"type": "session.created", "event_id": "e", "session": {
        "type": "realtime", "id": "sess_1", "object": "realtime.session", "expires_at": 1}}),
]
BAD = [
    ("an unknown client event", "client", {"type": "response.audio.delta", "delta": ""}),
    ("a session without type", "client", {"type": "session.update", "session": {"instructions": "x"}}),
    ("PCM at 16 kHz", "client", {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {
        "format": {"type": "audio/pcm", "rate": 16000}}}}}),
    ("a misspelt turn key", "client", {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {
        "turn_detection": {"type": "server_vad", "silence_ms": 500}}}}}),
    ("a number as text", "client", {
        "type": "conversation.item.truncate", "item_id": "i", "content_index": 0, "audio_end_ms": "1500"}),
    ("a truncation without its time", "client", {
        "type": "conversation.item.truncate", "item_id": "i", "content_index": 0}),
    ("a reference with more keys", "client", {"type": "response.create", "response": {
        "input": [{"type": "item_reference", "id": "i", "role": "user"}]}}),
    ("an unknown top key", "client", {"type": "response.cancel", "reason": "none"}),
    ("a delta without its item", "server", {
        "type": "response.output_audio.delta", "event_id": "e", "delta": "AAAA", "response_id": "r",
        "output_index": 0, "content_index": 0}),
    ("an event without id", "server", {"type": "input_audio_buffer.cleared"}),
    ("a former event name", "server", {"type": "response.audio.done", "event_id": "e"}),
    ("an unknown key in usage", "server", {"type": "response.done", "event_id": "e", "response": {
        "id": "r", "usage": {"total_tokens": 1, "spare": 2}}}),
    ("an unlisted session key", "server", {"type": "session.created", "event_id": "e", "session": {
        "type": "realtime", "mood": "calm"}}),
    ("a wrong status", "server", {"type": "response.done", "event_id": "e", "response": {"status": "over"}}),
]


def self_test():
    wrong = 0
    for side, event in GOOD:
        found = problems(json.dumps(event), side)
        if found:
            wrong += 1
            print(f"refused a good {event['type']}: {found}")
    for name, side, event in BAD:
        if not problems(json.dumps(event), side):
            wrong += 1
            print(f"accepted {name}")
    for name, text in [("broken JSON", "{"), ("a list", "[]"), ("nothing", "")]:
        if not problems(text, "server"):
            wrong += 1
            print(f"accepted {name}")
    _, failures = judge(["< {\"type\":\"no\"}", "no mark"], None)
    if len(failures) != 2:
        wrong += 1
        print("a bad line went unseen")
    print(f"openai {openai.__version__}: {len(GOOD)} good and {len(BAD) + 5} planted bad, {wrong} misjudged")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--side", choices=["client", "server"], help="of lines without > or <")
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    lines = []
    for name in arguments.files:
        with open(name, encoding="utf-8") as file:
            lines += file.readlines()
    if not arguments.files:
        lines = sys.stdin.readlines()
    counts, failures = judge(lines, arguments.side)
    for (side, kind), count in sorted(counts.items()):
        print(f"{count:7} {'>' if side == 'client' else '<'} {kind}")
    for number, name, found in failures[:50]:
        print(f"line {number} ({name}): " + "; ".join(found), file=sys.stderr)
    total = sum(counts.values())
    if total == 0:
        print("nothing to judge", file=sys.stderr)
        return 1
    print(f"openai {openai.__version__}: {total} events of {len(counts)} kinds, {len(failures)} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
