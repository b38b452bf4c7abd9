#!/usr/bin/env bash
# Runs a command as if on another machine: in a network namespace of its own, joined to this one by a veth pair.
#   netns.sh NAME NET COMMAND...      NET = the first three numbers of a private /30, for example 10.77.1
# This side has NET.1, the command's side NET.2. Needs root. The namespace is gone afterwards, however the command ends.
set -euo pipefail

if (($# < 3)); then
    echo 'usage: netns.sh NAME NET COMMAND...' >&2
    exit 2
fi
name=$1 net=$2
shift 2
# Interface names end at 15 characters.
here=v0-${name:0:11} there=v1-${name:0:11}

clean() {
    ip link delete "$here" 2>/dev/null || true
    ip netns delete "$name" 2>/dev/null || true
}
trap clean EXIT
clean
ip netns add "$name"
ip link add "$here" type veth peer name "$there" netns "$name"
ip address add "$net.1/30" dev "$here"
ip link set "$here" up
ip -n "$name" link set lo up
ip -n "$name" address add "$net.2/30" dev "$there"
ip -n "$name" link set "$there" up
ip -n "$name" route add default via "$net.1"
ip netns exec "$name" "$@"
