#!/usr/bin/env bash
# Makes the speech under daemon/sim/assets/speech from lines.tsv: `NAME<TAB>TEXT`, NAME = caller-LANG-N or agent-LANG-N.
# Needs espeak-ng, sox and opusenc (Debian: espeak-ng sox opus-tools). The results are committed: run it again only
# when a text changes, because another version of these tools makes other samples.
set -euo pipefail
cd "$(dirname "$0")/../../daemon/sim/assets/speech"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

while IFS=$'\t' read -r name text; do
    case $name in
        caller-en-*) voice=(-v en-gb -s 160 -p 55) ;;
        caller-fr-*) voice=(-v fr-fr -s 140 -p 45) ;;
        caller-sw-*) voice=(-v sw -s 150 -p 60) ;;
        agent-en-*) voice=(-v en-us+f3 -s 165 -p 50) ;;
        *) echo "lines.tsv: no voice for $name; names are caller-LANG-N or agent-LANG-N" >&2 && exit 1 ;;
    esac
    espeak-ng "${voice[@]}" -w "$work/raw.wav" -- "$text"
    # Silence at both ends goes, so that a line's length is speech; a ramp on each side keeps the ends free of
    # clicks. -D: no dither, the same input gives the same bytes.
    sox -D "$work/raw.wav" -r 24000 -c 1 -b 16 "$work/line.wav" \
        silence 1 0.005 0.4% \
        fade t 0.01 reverse silence 1 0.005 0.4% fade t 0.01 reverse gain -n -3 pad 0.02 0.02
    opusenc --quiet --bitrate 32 --vbr --comp 10 --framesize 20 --discard-comments --serial 1 \
        "$work/line.wav" "$name.opus"
    printf '%s %.2f s\n' "$name" "$(soxi -D "$work/line.wav")"
done < lines.tsv
du -cb ./*.opus | tail -n 1
