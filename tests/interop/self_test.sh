#!/usr/bin/env bash
# The outside judges against each other, without the daemon: a check that cannot fail proves nothing, and one that
# cannot pass here would blame the daemon. Browser and aiortc each call an aiortc answerer; STOI must pass both ways,
# and fail with the recordings swapped.
set -euo pipefail
cd "$(dirname "$0")"
python=${SAUTI_PYTHON:-../../.venv/bin/python}
work=$(mktemp -d)
answerer=
trap '[[ -z $answerer ]] || kill "$answerer" 2>/dev/null || true; rm -rf "$work"' EXIT

"$python" make_wav.py "$work/caller.wav" caller-en-3 caller-en-4
"$python" make_wav.py "$work/agent.wav" agent-en-2 agent-en-3
speech=../../daemon/sim/assets/speech

# call NAME HOST COMMAND...: one call to an answerer on HOST, both recordings judged.
call() {
    local name=$1 host=$2 desk=
    shift 2
    # Made here: the loop below may look before the background process has.
    : > "$work/$name.log"
    "$python" aiortc_answerer.py --listen "$host:0" --speech "$work/agent.wav" --out "$work/$name-answerer" \
        --seconds 12 --speak-after 800 > "$work/$name.log" 2>&1 &
    answerer=$!
    # The first start reads all of aiortc from the disk.
    for _ in {1..1200}; do
        desk=$(sed -n 's/^desk //p' "$work/$name.log")
        [[ -n $desk ]] && break
        kill -0 "$answerer" || break
        sleep 0.05
    done
    [[ -n $desk ]] || { cat "$work/$name.log" >&2; return 1; }
    "$@" --signal "$desk" --speech "$work/caller.wav" --out "$work/$name" --seconds 11 --speak-after 300
    wait "$answerer" || { cat "$work/$name.log" >&2; return 1; }
    answerer=
    "$python" stoi.py --swapped \
        --pair "$work/$name.wav" "$speech/agent-en-2.opus,$speech/agent-en-3.opus" \
        --pair "$work/$name-answerer.wav" "$speech/caller-en-3.opus,$speech/caller-en-4.opus"
}

call browser 127.0.0.1 node browser_caller.js
if ((EUID == 0)); then
    # A namespace of its own, as aiortc never offers loopback; the answerer listens on all addresses of this side.
    call aiortc 0.0.0.0 ./netns.sh sauti-self 10.77.9 bash -c 'exec "$0" aiortc_caller.py "${@/0.0.0.0/10.77.9.1}"' "$python"
elif [[ ${CI:-} == true ]]; then
    echo 'network namespaces need root, and CI must have them' >&2
    exit 1
else
    echo 'skipped: aiortc in a network namespace, which needs root'
fi
