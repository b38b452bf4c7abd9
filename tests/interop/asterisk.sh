#!/usr/bin/env bash
# Long evidence: calls through Asterisk, which no Debian that we support has. Makes the root of a newer one, half a GB, in
# target/asterisk or SAUTI_ASTERISK_ROOT (once: 2 minutes), and runs the tests that stand in tests/interop/asterisk.rs.
# As root, as it uses chroot. What has to be there besides is what `.ci/setup tests` installs, and debootstrap.
set -euo pipefail
cd "$(dirname "$0")/../.."
source .ci/lib.sh

export SAUTI_ASTERISK_ROOT=${SAUTI_ASTERISK_ROOT:-$PWD/target/asterisk}
if [[ ! -x $SAUTI_ASTERISK_ROOT/usr/sbin/asterisk ]]; then
    command -v debootstrap >/dev/null ||
        apt-get install -y --no-install-recommends --no-remove debootstrap >/dev/null
    debootstrap --variant=minbase --include=asterisk,asterisk-modules sid "$SAUTI_ASTERISK_ROOT" >/dev/null
fi
chroot "$SAUTI_ASTERISK_ROOT" asterisk -V
cargo nextest run --test interop -E 'test(/^asterisk::/)' "$@"
