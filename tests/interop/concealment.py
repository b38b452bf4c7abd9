#!/usr/bin/env python3
"""Scores how well lost packets were made up for: PESQ (wideband) and STOI of two decoders against what was said.

    concealment.py FOLDER [--swapped]

FOLDER holds, per language, LANGUAGE.wav (what was said) and LANGUAGE.lines (first sample and length of each line, one
`START,LENGTH` a row), and for each language, network and seed LANGUAGE-NETWORK-SEED-ours.wav and …-plain.wav. Each line is
scored by itself: found in the recording by cross-correlation, cut out with some silence around it, PESQ (ITU-T P.862.2,
16 kHz; it aligns within the line) and STOI (followed piece by piece as in stoi.py). The mean over all lines, seeds and
languages has to be better by the margin of its network. With --swapped, ours taken for plain and plain for ours must fall
short in every network, or the check itself proves nothing.
Prints a table and, as the last line, one JSON object. Exit 0: as demanded. 1: not. 2: unreadable input.
"""

import argparse
import json
import math
import multiprocessing
import os
import pathlib
import sys

import numpy
import soundfile
from pesq import pesq
from pystoi import stoi

from stoi import RATE, find, follow, load

# Networks in the order of the table, and by how much PESQ has to be better.
MARGINS = {"clear": None, "independent-5": 0.6, "bursty-2": 0.15, "bursty-5": 0.15, "bursty-10": 0.15}
BEFORE = RATE // 10
BEHIND = RATE * 3 // 10


def score(task):
    said_path, heard_path, lines, rate = task
    said, heard = load(said_path), load(heard_path)
    lag = find(said[: 12 * RATE], heard[: 13 * RATE])
    heard = numpy.concatenate([heard[lag:], numpy.zeros(lag + RATE)])
    scores = []
    for start, length in lines:
        begin, end = start * RATE // rate, (start + length) * RATE // rate
        part = said[begin - BEFORE : end + BEHIND]
        got = heard[begin - BEFORE : end + BEHIND]
        line = said[begin:end]
        followed = follow(line, heard, begin)
        gain = math.sqrt(float(numpy.mean(followed**2)) / float(numpy.mean(line**2)))
        scores.append((pesq(RATE, part, got, "wb"), stoi(line, followed / max(gain, 1e-4), RATE)))
    return [float(value) for value in numpy.mean(scores, axis=0)]


def score_all(folder):
    """(network, side, language) and scores of every recording in the folder."""
    tasks, keys = [], []
    for lines_path in sorted(folder.glob("*.lines")):
        language = lines_path.stem
        said = folder / f"{language}.wav"
        rate = soundfile.info(said).samplerate
        lines = [tuple(map(int, row.split(","))) for row in lines_path.read_text().split()]
        for network in MARGINS:
            for heard in sorted(folder.glob(f"{language}-{network}-*.wav")):
                tasks.append((said, heard, lines, rate))
                keys.append((network, heard.stem.rsplit("-", 1)[1], language))
    with multiprocessing.Pool(min(2, os.cpu_count() or 1)) as pool:
        return list(zip(keys, pool.map(score, tasks, chunksize=1)))


def means(scores, network, languages):
    """PESQ and STOI of both sides."""

    def of(side):
        chosen = [value for (net, who, language), value in scores if (net, who) == (network, side) and language in languages]
        if not chosen:
            raise ValueError(f"no recording {'/'.join(languages)}-{network}-SEED-{side}.wav")
        return [float(value) for value in numpy.mean(chosen, axis=0)]

    return of("ours"), of("plain")


def main():
    parser = argparse.ArgumentParser(description="PESQ and STOI of two decoders under loss")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--swapped", action="store_true")
    task = parser.parse_args()
    try:
        scores = score_all(task.folder)
        languages = sorted({key[2] for key, _ in scores})
        rows = [
            (network, of, *means(scores, network, names))
            for network in MARGINS
            for of, names in [*((name, [name]) for name in languages), ("all", languages)]
        ]
    except (OSError, RuntimeError, ValueError) as error:
        print(f"concealment: {error}", file=sys.stderr)
        sys.exit(2)
    print("network        language  PESQ ours  plain   gain   STOI ours  plain")
    table, low, blind = {}, [], []
    for network, language, ours, plain in rows:
        gain, margin = ours[0] - plain[0], MARGINS[network]
        print(
            f"{network:14} {language:8} {ours[0]:10.2f} {plain[0]:6.2f} {gain:+6.2f} {ours[1]:11.3f} {plain[1]:6.3f}"
        )
        if language != "all":
            continue
        rounded = {"ours": [round(value, 3) for value in ours], "plain": [round(value, 3) for value in plain]}
        table[network] = {**rounded, "gain": round(gain, 3), "margin": margin}
        if margin is not None and gain < margin:
            low.append(f"concealment: {network}: {gain:+.2f} PESQ, and {margin:+.2f} was demanded")
        if margin is not None and task.swapped and -gain >= margin:
            blind.append(f"concealment: {network}: passes with the two swapped: the check is blind")
    print(json.dumps({"table": table, "pass": not low and not blind}))
    for line in low + blind:
        print(line, file=sys.stderr)
    sys.exit(1 if low or blind else 0)


if __name__ == "__main__":
    main()
