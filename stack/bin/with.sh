#!/usr/bin/env bash
# with.sh SERVICE... -- COMMAND... - run a command with these services up; afterwards stop those that were not running before.
set -euo pipefail
. "$(dirname "$0")/env.sh"
services=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do services+=("$1"); shift; done
[ $# -gt 1 ] && [ ${#services[@]} -gt 0 ] || { sed -n '2p' "$0"; exit 2; }
shift
ours=()
for s in "${services[@]}"; do
  [ -x "$BIN/$s.sh" ] || die "no such service: $s"
  "$BIN/$s.sh" status >/dev/null 2>&1 || ours+=("$s")
done
if [ ${#ours[@]} -gt 0 ]; then
  trap '"$BIN/all.sh" stop "${ours[@]}"' EXIT
  "$BIN/all.sh" start "${ours[@]}"
fi
"$@"
