#!/usr/bin/env python3
"""Scores how intelligible a recording is: STOI of what was heard against what was said.

    stoi.py [--threshold 0.85] --pair HEARD.wav SAID.wav[,SAID2.wav…] [--pair …] [--swapped]

Each SAID is looked up in its HEARD by cross-correlation (speech may start anywhere), followed piece by piece (a jitter
buffer that grows or shrinks moves what comes after by some 20 ms, which nobody hears), levelled and scored at 16 kHz; a
pair's score is the mean over its SAID files, by length. All pairs must reach the threshold.
--swapped, with two pairs, also scores each HEARD against the other pair's SAID: those must all stay below the
threshold, or the check itself proves nothing.
Prints one JSON object. Exit 0: as demanded. 1: not. 2: unreadable input or wrong arguments.
"""

import argparse
import json
import math
import sys

import numpy
import soundfile
from pystoi import stoi
from scipy.signal import fftconvolve, resample_poly

RATE = 16000
# STOI leaves out silent frames and needs about 0.4 s of speech; less is not worth scoring.
SHORTEST = RATE // 2

# Speech is followed in pieces of this length; from one to the next it may move by so much either way.
PIECE = RATE * 2 // 5
MOVES = RATE * 12 // 100
# Where nothing near fits, as when the machine stood still meanwhile, it is looked for further away; it must fit there.
LEAPS = RATE * 48 // 100
FITS = 0.5


def load(path):
    samples, rate = soundfile.read(path, dtype="float64", always_2d=True)
    factor = math.gcd(rate, RATE)
    return resample_poly(samples.mean(axis=1), RATE // factor, rate // factor)


def fit(said, heard):
    """How well `said` fits at each lag in `heard`: the correlation, normalised by the levels of both."""
    padded = numpy.concatenate([heard, numpy.zeros(len(said))])
    cross = fftconvolve(padded, said[::-1], mode="valid")
    sums = numpy.concatenate([[0.0], numpy.cumsum(padded**2)])
    under = sums[len(said) :] - sums[: -len(said)]
    floor = max(sums[-1] / len(padded) * len(said) * 1e-3, 1e-12)
    return cross / numpy.sqrt(numpy.maximum(under, floor)) / max(float(numpy.linalg.norm(said)), 1e-12)


def find(said, heard):
    """Where `said` begins in `heard`: where it fits best."""
    return int(numpy.argmax(fit(said, heard)))


def near(piece, padded, at, reach):
    """Where `piece` fits best in `padded`, by at most `reach` from `at`, and how well."""
    first = max(at - reach, -LEAPS) + LEAPS
    fits = fit(piece, padded[first : first + len(piece) + 2 * reach])[: 2 * reach + 1]
    best = int(numpy.argmax(fits))
    return first - LEAPS + best, float(fits[best])


def follow(said, heard, at):
    """What was heard from `at` on, each piece of it from where it fits best, near where the one before it did."""
    padded = numpy.concatenate([numpy.zeros(LEAPS), heard, numpy.zeros(len(said) + 2 * LEAPS)])
    quiet = 0.1 * math.sqrt(float(numpy.mean(said**2)))
    parts, lag = [], at
    for start in range(0, len(said), PIECE):
        piece = said[start : start + PIECE]
        # Silence fits anywhere, and a rest is too short to tell.
        if len(piece) == PIECE and math.sqrt(float(numpy.mean(piece**2))) > quiet:
            place, well = near(piece, padded, lag + start, MOVES)
            if well < FITS:
                further, better = near(piece, padded, lag + start, LEAPS)
                place = further if better >= FITS else place
            lag = place - start
        from_ = min(max(lag + start, -LEAPS) + LEAPS, len(padded) - len(piece))
        parts.append(padded[from_ : from_ + len(piece)])
    return numpy.concatenate(parts)


def score(said, heard):
    if len(said) < SHORTEST or len(heard) < SHORTEST:
        return {"offset_ms": 0, "seconds": round(len(said) / RATE, 2), "gain_db": None, "stoi": 0.0}
    at = find(said, heard)
    # What the recording lost counts as silence, not as absent.
    part = follow(said, heard, at)
    gain = math.sqrt(float(numpy.mean(part**2)) / max(float(numpy.mean(said**2)), 1e-12))
    value = float(stoi(said, part / gain, RATE)) if gain > 1e-4 else 0.0
    return {
        "offset_ms": round(at * 1000 / RATE),
        "seconds": round(len(said) / RATE, 2),
        "gain_db": round(20 * math.log10(gain), 1) if gain > 0 else None,
        "stoi": round(value if math.isfinite(value) else 0.0, 4),
    }


def score_pair(heard_path, said_paths):
    heard = load(heard_path)
    parts = [{"said": path, **score(load(path), heard)} for path in said_paths.split(",")]
    length = sum(part["seconds"] for part in parts)
    mean = sum(part["stoi"] * part["seconds"] for part in parts) / max(length, 1e-9)
    return {"heard": heard_path, "stoi": round(mean, 4), "parts": parts}


def main():
    parser = argparse.ArgumentParser(description="STOI of recordings against what was said")
    parser.add_argument("--threshold", type=float, default=0.85)
    parser.add_argument("--pair", nargs=2, action="append", required=True, metavar=("HEARD", "SAID"))
    parser.add_argument("--swapped", action="store_true")
    task = parser.parse_args()
    if task.swapped and len(task.pair) != 2:
        parser.error("--swapped needs exactly two --pair")
    try:
        pairs = [score_pair(*pair) for pair in task.pair]
        swapped = []
        if task.swapped:
            (heard_a, said_a), (heard_b, said_b) = task.pair
            swapped = [score_pair(heard_a, said_b), score_pair(heard_b, said_a)]
    except (OSError, RuntimeError, ValueError) as error:
        print(f"stoi: {error}", file=sys.stderr)
        sys.exit(2)
    low = [pair["heard"] for pair in pairs if pair["stoi"] < task.threshold]
    blind = [pair["heard"] for pair in swapped if pair["stoi"] >= task.threshold]
    print(json.dumps({"threshold": task.threshold, "pairs": pairs, "swapped": swapped, "pass": not low and not blind}))
    for heard in low:
        print(f"stoi: {heard} is below {task.threshold}", file=sys.stderr)
    for heard in blind:
        print(f"stoi: {heard} passes against the other side's speech: the check is blind", file=sys.stderr)
    sys.exit(1 if low or blind else 0)


if __name__ == "__main__":
    main()
