#!/usr/bin/env python3
"""Makes one WAV (48 kHz mono) from lines of the committed speech, for scripts that need a file.

    make_wav.py OUT.wav NAME [NAME …] [--gap 0.7] [--lead 0] [--tail 0]      NAME as in daemon/sim/assets/speech/lines.tsv
"""

import argparse
from pathlib import Path

import numpy
import soundfile

from pcm import read_mono

RATE = 48000
SPEECH = Path(__file__).resolve().parents[2] / "daemon/sim/assets/speech"


def main():
    parser = argparse.ArgumentParser(description="one WAV from lines of speech")
    parser.add_argument("out")
    parser.add_argument("name", nargs="+")
    parser.add_argument("--gap", type=float, default=0.7, help="seconds of silence between two lines")
    parser.add_argument("--lead", type=float, default=0, help="seconds of silence before the first")
    parser.add_argument("--tail", type=float, default=0, help="seconds of silence after the last")
    task = parser.parse_args()
    gap = numpy.zeros(int(task.gap * RATE), numpy.int16)
    parts = [part for name in task.name for part in (read_mono(SPEECH / f"{name}.opus", RATE), gap)][:-1]
    lead, tail = (numpy.zeros(int(seconds * RATE), numpy.int16) for seconds in (task.lead, task.tail))
    soundfile.write(task.out, numpy.concatenate([lead, *parts, tail]), RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
