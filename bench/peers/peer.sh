#!/usr/bin/env bash
# peer.sh - a peer of Pinion, as the bench runs it beside Pinion on the same services.
#
#   peer.sh NAME install         what it needs, from Debian, npm, PyPI or the Go proxy; once
#   peer.sh NAME broker          its own broker, in the foreground
#   peer.sh NAME enqueue COUNT   jobs for the orders 1 to COUNT
#   peer.sh NAME work            its workers, in the foreground
#   peer.sh NAME clean           removes what it made in the database
#
# NAME is gearman, celery, bento, connect (Redpanda Connect, the program CONNECT_BIN) or pgsync. The bench tells where the services are
# (RABBITMQ_URL, REPLICA, ELASTICSEARCH_URL), and into which INDEX the documents go.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../stack/bin/env.sh"
PEERS="$HERE/../bench/peers"
NAME=${1:-} VERB=${2:-}
FOLDER="$LAB/peers/$NAME"
GEARMAN_PORT="${GEARMAN_PORT:-14730}"
REDIS_PORT="${REDIS_PORT:-16390}"

# venv PACKAGE...: a Python environment with these in $FOLDER
venv() {
  python3 -c 'import ensurepip' 2>/dev/null || need python-that-makes-environments python3-venv
  [ -x "$FOLDER/bin/python" ] || python3 -m venv "$FOLDER"
  "$FOLDER/bin/pip" install --quiet --disable-pip-version-check "$@"
}
# started PORT: wait until the peer's own broker listens
started() { local i; for ((i = 0; i < 100; i++)); do ! port_open "$1" || return 0; sleep 0.1; done; die "$NAME: nothing listens on $1"; }
# The query on one line, for the pipelines' configuration.
query() { grep -v '^--' "$PEERS/order.sql" | tr -s '\n ' ' ' | sed 's/ANY(\$1)/ANY($1::bigint[])/'; }

pgsync_settings() {
  export PG_HOST=$HOST PG_PORT PG_USER=postgres PG_PASSWORD=none PG_SSLMODE=disable REDIS_HOST=$HOST REDIS_PORT REDIS_AUTH=
  export ELASTICSEARCH=True OPENSEARCH=False ELASTICSEARCH_TIMEOUT=60 LOG_LEVEL=WARNING GENERAL_LOGGING_LEVEL=WARNING
  export ELASTICSEARCH_CHUNK_SIZE=5000 QUERY_CHUNK_SIZE=10000 ELASTICSEARCH_STREAMING_BULK=False ELASTICSEARCH_HTTP_COMPRESS=True
  cd "$FOLDER"   # it keeps its position in a file
}

mkdir -p "$FOLDER"
case "$NAME.$VERB" in
  gearman.install)
    need gearmand gearman-job-server
    need npm npm
    cp "$PEERS"/gearman/package*.json "$FOLDER"
    npm ci --prefix "$FOLDER" --no-audit --no-fund --silent ;;
  gearman.broker) exec gearmand --listen="$HOST" --port="$GEARMAN_PORT" --log-file="$LOGS/gearmand.log" --threads=2 --hashtable-buckets=200003 ;;
  gearman.enqueue) started "$GEARMAN_PORT"; exec node "$PEERS/gearman/enqueue.js" "$GEARMAN_PORT" "$3" ;;
  gearman.work)
    export NODE_PATH="$FOLDER/node_modules"
    for _ in 1 2; do node "$PEERS/gearman/worker.js" "$GEARMAN_PORT" "$INDEX" & done
    wait -n ;;

  celery.install) venv 'celery==5.7.0' 'psycopg[binary]==3.3.9' 'elasticsearch==8.19.3' ;;
  celery.enqueue) exec "$FOLDER/bin/python" "$PEERS/celery/tasks.py" "$3" ;;
  celery.work)
    cd "$PEERS/celery"
    exec "$FOLDER/bin/celery" -A tasks worker -c 2 -l WARNING --without-gossip --without-mingle --without-heartbeat ;;

  bento.install)
    command -v go >/dev/null || die "bento: needs Go, as new as bento/go.mod says"
    (cd "$PEERS/bento" && go build -o "$FOLDER/bento" .) ;;
  bento.work) QUERY=$(query) exec "$FOLDER/bento" -c "$PEERS/bento/pipeline.yaml" ;;

  connect.install) [ -x "${CONNECT_BIN:-}" ] || die "connect: CONNECT_BIN is no program of Redpanda Connect" ;;
  connect.work) QUERY=$(query) exec "$CONNECT_BIN" run "$PEERS/connect/pipeline.yaml" ;;

  pgsync.install) need redis-server redis-server; need psql postgresql-client; venv 'pgsync==7.3.0' ;;
  pgsync.broker) exec redis-server --port "$REDIS_PORT" --bind "$HOST" --save '' --appendonly no --dir "$FOLDER" ;;
  pgsync.work)
    started "$REDIS_PORT"
    pgsync_settings
    rm -f .bench_* .*checkpoint*
    "$FOLDER/bin/bootstrap" -c "$PEERS/pgsync/schema.json"
    "$FOLDER/bin/pgsync" -c "$PEERS/pgsync/schema.json"
    exec sleep 600 ;;   # so that somebody keeps the CPU time of the program that has ended
  pgsync.clean) pgsync_settings; "$FOLDER/bin/bootstrap" --teardown -c "$PEERS/pgsync/schema.json" ;;
  *.clean) ;;
  *) sed -n '2,11p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
