#!/usr/bin/env bash
# Makes the recordings of this folder from clips.tsv: `LANG/NAME<TAB>TEXT`, one file LANG/NAME.opus each.
# Needs flite, espeak-ng, sox and opusenc (Debian: flite espeak-ng sox opus-tools). The results are committed: run it
# again only when a text or a voice changes, because another version of these tools makes other samples.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Level of speech over its whole length, dB below full scale: what the model's voice has, and room for its peaks.
level=-20

while IFS=$'\t' read -r name text; do
    case $name in
        en/*) flite -voice slt -t "$text" -o "$work/raw.wav" ;;
        fr/*) espeak-ng -v fr-fr+f3 -s 140 -p 50 -w "$work/raw.wav" -- "$text" ;;
        sw/*) espeak-ng -v sw+f3 -s 165 -p 50 -w "$work/raw.wav" -- "$text" ;;
        # A stand-in: a Swahili voice reads the Kinyarwanda words. See README.md.
        rw/*) espeak-ng -v sw+f3 -s 155 -p 50 -w "$work/raw.wav" -- "$text" ;;
        *) echo "clips.tsv: no voice for $name; names are LANG/NAME" >&2 && exit 1 ;;
    esac
    # Silence at both ends goes; a ramp on each side keeps the ends free of clicks. -D: no dither, the same input
    # gives the same bytes.
    sox -D "$work/raw.wav" -r 24000 -c 1 -b 16 "$work/speech.wav" \
        silence 1 0.005 0.4% fade t 0.01 reverse silence 1 0.005 0.4% fade t 0.01 reverse gain -n -6
    rms=$(sox "$work/speech.wav" -n stats 2>&1 | awk '/^RMS lev dB/ { print $4 }')
    sox -D "$work/speech.wav" "$work/clip.wav" \
        gain -l "$(awk -v rms="$rms" -v level=$level 'BEGIN { print level - rms }')" pad 0.04 0.1
    mkdir -p "$(dirname "$name")"
    opusenc --quiet --speech --bitrate 24 --vbr --comp 10 --framesize 20 --discard-comments --serial 1 \
        "$work/clip.wav" "$name.opus"
    printf '%s %.2f s\n' "$name" "$(soxi -D "$work/clip.wav")"
done < clips.tsv

# What a caller hears while a person is called: eight seconds of plucked strings over C, G, A minor and F, no work of
# anybody's. Softer than speech, and it begins and ends in silence, as it is played again and again.
tune() {
    local chord note parts=()
    for chord in "C3 G3 C4 E4" "G3 D4 G4 B4" "A3 E4 A4 C5" "F3 C4 F4 A4"; do
        for note in $chord; do
            sox -D -R -n -r 24000 -c 1 -b 16 "$work/note-${#parts[@]}.wav" synth 0.5 pluck "$note" fade t 0.005 0.5 0.2
            parts+=("$work/note-${#parts[@]}.wav")
        done
    done
    sox -D "${parts[@]}" "$work/tune.wav" lowpass 3000 reverb 40 gain -n -12 fade t 0.05 8 0.4
}
tune
opusenc --quiet --music --bitrate 24 --vbr --comp 10 --framesize 20 --discard-comments --serial 1 \
    "$work/tune.wav" hold_music.opus
du -cb ./*.opus ./*/*.opus | tail -n 1
