#!/usr/bin/env bash
# apt-install.sh PACKAGE... - install Debian packages, refreshing the package lists when they are missing or older than a day,
# and without starting the servers that packages start by themselves. Called by `need` in env.sh, under a lock.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
fresh=$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit 2>/dev/null)
[ -n "$fresh" ] || apt-get -q update
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get -q -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "$@"
