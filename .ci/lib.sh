# Sourced by the scripts beside it: steps that say how long they took, tools that must be there.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export SAUTI_TEST_LOGS=${SAUTI_TEST_LOGS:-${CARGO_TARGET_DIR:-$PWD/target}/test-logs}
export SAUTI_PYTHON=${SAUTI_PYTHON:-$PWD/.venv/bin/python}
skipped=0

# step NAME COMMAND...: runs it, says how long it took; a failing one ends the script.
step() {
    local name=$1 begun=$EPOCHREALTIME rc=0
    shift
    printf '\n== %s\n' "$name"
    "$@" || rc=$?
    local took=$(((${EPOCHREALTIME/[.,]/} - ${begun/[.,]/}) / 1000))
    if ((rc)); then
        printf '== %s: FAILED with %d after %d.%d s\n' "$name" "$rc" $((took / 1000)) $((took % 1000 / 100))
        exit "$rc"
    fi
    printf '== %s: ok, %d.%d s\n' "$name" $((took / 1000)) $((took % 1000 / 100))
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
