# Sourced by the scripts beside it: steps that say how long they took, tools that must be there.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export SAUTI_TEST_LOGS=${SAUTI_TEST_LOGS:-${CARGO_TARGET_DIR:-$PWD/target}/test-logs}
export SAUTI_RFC4475=${SAUTI_RFC4475:-${CARGO_TARGET_DIR:-$PWD/target}/rfc4475}
export SAUTI_PYTHON=${SAUTI_PYTHON:-$PWD/.venv/bin/python}
skipped=0

running=
begun_at=

tell_time() {
    local took=$(((${EPOCHREALTIME/[.,]/} - begun_at) / 1000))
    printf '== %s: %s, %d.%d s\n' "$running" "$1" $((took / 1000)) $((took % 1000 / 100))
}

trap 'failed_with=$?; [[ -z $running ]] || tell_time "FAILED with $failed_with"' EXIT

# step NAME COMMAND...: runs it, says how long it took; a failing one ends the script. The command must not stand in a
# condition: bash would then let a function go on past its failures.
step() {
    running=$1
    begun_at=${EPOCHREALTIME/[.,]/}
    shift
    printf '\n== %s\n' "$running"
    "$@"
    tell_time ok
    running=
}

# has TOOL WHAT: true when the tool is there. Where it is not, CI fails; elsewhere the skip is counted and told.
has() {
    command -v "$1" >/dev/null && return
    if [[ ${CI:-} == true ]]; then
        echo "$1 is missing, which $2 needs; .ci/setup should have installed it" >&2
        exit 1
    fi
    echo "skipped: $2, because $1 is missing"
    skipped=$((skipped + 1))
    return 1
}
