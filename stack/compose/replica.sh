#!/usr/bin/env bash
# The replica's entry point: on an empty volume copies the primary, then starts the server with the arguments given.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  chmod 700 "$PGDATA"
  pg_basebackup -d "host=$PRIMARY user=replica password=replica" -D "$PGDATA" -R -X stream -c fast
fi
exec "$@"
