#!/usr/bin/env python3
"""Makes one file from lines of the committed speech, for programs that need one: WAV (48 kHz mono), or as its name ends
in .al or .ul, the bare codes of A-law or µ-law (8 kHz).

    make_wav.py OUT.wav NAME [NAME …] [--gap 0.7] [--lead 0] [--tail 0]      NAME as in daemon/sim/assets/speech/lines.tsv
"""

import argparse
from pathlib import Path

import numpy
import soundfile

from pcm import read_mono

RATE = 48000
LAWS = {".al": "ALAW", ".ul": "ULAW"}
SPEECH = Path(__file__).resolve().parents[2] / "daemon/sim/assets/speech"


def main():
    parser = argparse.ArgumentParser(description="one file from lines of speech")
    parser.add_argument("out")
    parser.add_argument("name", nargs="+")
    parser.add_argument("--gap", type=float, default=0.7, help="seconds of silence between two lines")
    parser.add_argument("--lead", type=float, default=0, help="seconds of silence before the first")
    parser.add_argument("--tail", type=float, default=0, help="seconds of silence after the last")
    task = parser.parse_args()
    law = LAWS.get(Path(task.out).suffix)
    rate = 8000 if law else RATE
    gap = numpy.zeros(int(task.gap * rate), numpy.int16)
    parts = [part for name in task.name for part in (read_mono(SPEECH / f"{name}.opus", rate), gap)][:-1]
    lead, tail = (numpy.zeros(int(seconds * rate), numpy.int16) for seconds in (task.lead, task.tail))
    samples = numpy.concatenate([lead, *parts, tail])
    if law:
        soundfile.write(task.out, samples, rate, format="RAW", subtype=law)
    else:
        soundfile.write(task.out, samples, rate, subtype="PCM_16")


if __name__ == "__main__":
    main()
