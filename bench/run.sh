#!/usr/bin/env bash
# run.sh - measures Pinion's whole way against Elasticsearch's own speed, in one run; README.md beside this says how.
#
#   bench/run.sh [--quick] [--orders N] [--runs N] [--workers N] [--peers LIST] [--markdown FILE] [--programs FOLDER] [-- MORE]
#
#   --quick            50,000 orders, 200,000 events and one run, to see that everything works
#   --orders N         orders in the shop (also ORDERS; 200000)
#   --feed-events N    change events that the feed catches up with; 0 leaves that out, and Kafka (also FEED_EVENTS; 1000000)
#   --runs N           repetitions of everything (also RUNS; 3)
#   --workers N        processes of `pinion work` that share the queue (also WORKERS; 1)
#   --peers LIST       what runs beside it: gearman, celery, bento, connect, pgsync, with commas (none)
#   --markdown FILE    write the report to FILE too, and its picture beside it, as .svg
#   --mapping FILE     the index's mapping (bench/mapping.json: without nested and analysed fields, so that Elasticsearch is at its fastest)
#   --programs FOLDER  where `pinion` and `pinion-bench` are, instead of building them
#   -- MORE            more for pinion-bench, such as --latency-seconds 60; `-- --help` lists all
#
# Services that don't run are started with stack/bin and stopped at the end. What a run makes in them (the database `bench`, and in
# RabbitMQ, Elasticsearch and Kafka what begins with `bench`) is removed at the end, and before if it is there from an earlier run.
set -euo pipefail
TOP=$(cd "$(dirname "$0")/.." && pwd)
usage() { sed -n '2,18p' "$0" | sed 's/^# \{0,1\}//'; }
wrong() { echo "run.sh: $1; --help says what there is" >&2; exit 2; }

orders=${ORDERS:-200000} feed_events=${FEED_EVENTS:-1000000} runs=${RUNS:-3} workers=${WORKERS:-1} programs="" markdown="" mapping=$TOP/bench/mapping.json more=()
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) orders=50000 feed_events=200000 runs=1 ;;
    --orders|--feed-events|--runs|--workers|--peers|--markdown|--mapping|--programs)
      [ $# -ge 2 ] || wrong "$1 needs a value"
      case "$1" in --orders) orders=$2 ;; --feed-events) feed_events=$2 ;; --runs) runs=$2 ;; --workers) workers=$2 ;; --peers) more+=(--peers "$2") ;; --markdown) markdown=$2 ;; --mapping) mapping=$2 ;; --programs) programs=$2 ;; esac
      shift ;;
    --help|-h) usage; exit ;;
    --) shift; more+=("$@"); break ;;
    *) wrong "no such option: $1" ;;
  esac
  shift
done
for number in "$orders" "$runs" "$workers"; do [[ $number =~ ^[1-9][0-9]*$ ]] || wrong "not a number above 0: $number"; done
[[ $feed_events =~ ^(0|[1-9][0-9]*)$ ]] || wrong "not a number: $feed_events"
case " ${more[*]:-} " in *" --help "*) more=(--help) ;; esac

if [ -z "$programs" ]; then
  "$TOP/stack/bin/build-tools.sh"
  (cd "$TOP" && cargo build --release --quiet -p pinion-worker -p pinion-bench)
  programs=$(cd "$TOP" && cd "${CARGO_TARGET_DIR:-target}/release" && pwd)
fi
[ "${more[*]:-}" != --help ] || exec "$programs/pinion-bench" --help
[ -z "$markdown" ] || more+=(--markdown "$markdown")

. "$TOP/stack/bin/env.sh"
PGDIR="${PGDIR:-$LAB/pg}"; PG_REPLICA="${PG_REPLICA:-$PGDIR/replica}"   # as in pg.sh
sql() { psql -X -q -v ON_ERROR_STOP=1 -h "$HOST" -p "$PG_PORT" -U postgres "$@"; }

job=$(mktemp -d)
cp "$TOP/schemas/shop/orders/job.toml" "$TOP/schemas/shop/orders/document.sql" "$job"
cp "$mapping" "$job/mapping.json"
started=()
finish() {
  local rc=$? service
  trap - EXIT
  rm -r "$job"
  sql -d postgres -c 'SET client_min_messages = warning' -c 'DROP DATABASE IF EXISTS bench WITH (FORCE)' || true
  for service in "${started[@]}"; do "$BIN/$service.sh" stop || true; done
  exit "$rc"
}
services=(rabbitmq elasticsearch pg)
[ "$feed_events" = 0 ] || services+=(kafka)
for service in "${services[@]}"; do
  "$BIN/$service.sh" status >/dev/null 2>&1 || started+=("$service")
done
trap finish EXIT
[ ${#started[@]} = 0 ] || "$BIN/all.sh" start "${started[@]}" || die "not all services could be started"

say "filling a shop of $orders orders"
sql -d postgres -c 'SET client_min_messages = warning' -c 'DROP DATABASE IF EXISTS bench WITH (FORCE)' -c 'CREATE DATABASE bench TEMPLATE template0'
sql -d bench -v orders="$orders" -f "$TOP/schemas/shop/database.sql"
# A vacuum in the middle of a run would be taken for the work that is measured.
for table in customers merchants orders order_items deliveries; do sql -d bench -c "ALTER TABLE $table SET (autovacuum_enabled = off)"; done

kafka=()
[ "$feed_events" = 0 ] || kafka=(--kafka "$BOOTSTRAP" --kafka-version "$(cat "$LIB/.stamp")" --kafka-pid "$(pid_of "${NODE:-kafka}")")
postgres_pid() { head -1 "$1/postmaster.pid"; }
"$programs/pinion-bench" --runs "$runs" --workers "$workers" --job "$job" --feed-events "$feed_events" "${kafka[@]}" \
  --rabbitmq "amqp://guest:guest@$HOST:$RABBITMQ_PORT/%2f" --management "http://$HOST:$((RABBITMQ_PORT + 1))" \
  --elasticsearch "$ELASTICSEARCH_URL" \
  --primary "postgres://pinion:pinion@$HOST:$PG_PORT/bench" --replica "postgres://pinion:pinion@$HOST:$PG_REPLICA_PORT/bench" \
  --writer "postgres://postgres@$HOST:$PG_PORT/bench" \
  --elasticsearch-pid "$(pid_of "${NODE:-elasticsearch}")" --rabbitmq-pid "$(pid_of "${NODE:-rabbitmq}")" \
  --primary-pid "$(postgres_pid "$PGDIR/data")" --replica-pid "$(postgres_pid "$PG_REPLICA")" "${more[@]}"
