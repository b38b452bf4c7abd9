"""What the aiortc scripts share: a microphone from a file that starts on command, a recorder, a summary.

aiortc's own MediaPlayer starts with the process and paces itself by file; a call needs speech that begins when the
call is up, at 20 ms a frame, with silence before and after.
"""

import asyncio
import fractions
import json
import time

import av
import numpy
import soundfile
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from pcm import read_mono

RATE = 48000
FRAME = RATE // 50


class Microphone(MediaStreamTrack):
    """Silence until `speak()`, then the file once, then silence again; a frame every 20 ms."""

    kind = "audio"

    def __init__(self, path):
        super().__init__()
        self.samples = read_mono(path, RATE)
        self.at = None
        self.sent = 0
        self.started = None

    def speak(self):
        self.at = 0

    async def recv(self):
        if self.readyState != "live":
            raise MediaStreamError
        if self.started is None:
            self.started = time.monotonic()
        await asyncio.sleep(max(0.0, self.started + self.sent / RATE - time.monotonic()))
        part = numpy.zeros(FRAME, numpy.int16)
        if self.at is not None:
            rest = self.samples[self.at : self.at + FRAME]
            part[: len(rest)] = rest
            self.at += FRAME
        frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts = self.sent
        frame.time_base = fractions.Fraction(1, RATE)
        self.sent += FRAME
        return frame


class Recorder:
    """Keeps what a remote track says, as 48 kHz mono."""

    def __init__(self):
        self.parts = []
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        self.task = None

    def follow(self, track):
        self.task = asyncio.ensure_future(self._run(track))

    async def _run(self, track):
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            for part in self.resampler.resample(frame):
                self.parts.append(part.to_ndarray().reshape(-1))

    def samples(self):
        return numpy.concatenate(self.parts) if self.parts else numpy.zeros(0, numpy.int16)


async def packets(connection):
    """Packets received and sent, and received ones lost, over all streams of a connection."""
    counts = {"packets_received": 0, "packets_lost": 0, "packets_sent": 0}
    for entry in (await connection.getStats()).values():
        if entry.type == "inbound-rtp":
            counts["packets_received"] += entry.packetsReceived
            counts["packets_lost"] += max(0, entry.packetsLost)
        elif entry.type == "outbound-rtp":
            counts["packets_sent"] += entry.packetsSent
    return counts


def write(prefix, samples, summary):
    """PREFIX.wav and PREFIX.json; the summary goes to stdout as one line too."""
    soundfile.write(f"{prefix}.wav", samples, RATE, subtype="PCM_16")
    level = float(numpy.sqrt(numpy.mean((samples / 32768.0) ** 2))) if len(samples) else 0.0
    summary = {**summary, "seconds_heard": round(len(samples) / RATE, 3), "rms_heard": round(level, 5)}
    with open(f"{prefix}.json", "w", encoding="utf-8") as out:
        json.dump(summary, out, indent=1)
    print(json.dumps(summary), flush=True)
    return summary


def both_ways(summary):
    """None, or what is wrong with the packets of a call."""
    if summary["packets_received"] and summary["packets_sent"]:
        return None
    return f"packets did not go both ways: {summary['packets_received']} in, {summary['packets_sent']} out"
