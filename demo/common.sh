# common.sh - what the demonstrations share. Sourced by shop.sh and feed.sh, on services that run; at the end all of it is removed.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. stack/bin/env.sh
need jq jq; need psql postgresql-client; need curl curl; need column bsdextrautils
ORDERS=${ORDERS:-20000}
DIR=$(mktemp -d); DATABASE=pinion_demo; NAMESPACE=demo
PINION="${CARGO_TARGET_DIR:-target}/release/pinion"
export PINION_CONFIG="$DIR/pinion.toml"
declare -A ADMIN PID

step() { printf '\n== %s\n' "$*"; }
sql() { psql -X -q -v ON_ERROR_STOP=1 -h "$HOST" -p "$PG_PORT" -U postgres -d "$DATABASE" "$@"; }
es() { curl -fsS -m 30 -H 'content-type: application/json' "$ELASTICSEARCH_URL/$1" "${@:2}"; }

remove_all() {   # everything of an earlier demonstration, or of this one
  local index
  for index in $(curl -fsS "$ELASTICSEARCH_URL/_cat/indices/demo-*?h=index&expand_wildcards=all" | sort -u); do
    es "$index" -X DELETE >/dev/null
  done
  for index in $(curl -fsS "$ELASTICSEARCH_URL/_cat/templates/demo-*?h=name"); do es "_index_template/$index" -X DELETE >/dev/null; done
  local api="http://guest:guest@$HOST:$((RABBITMQ_PORT + 1))/api" kind name
  for kind in queues exchanges; do
    for name in $(curl -fsS "$api/$kind/%2f" | jq -r '.[].name | select(. == "demo" or startswith("demo."))'); do
      curl -fsS -X DELETE "$api/$kind/%2f/$name"
    done
  done
  psql -X -q -h "$HOST" -p "$PG_PORT" -U postgres -d postgres -c "DROP DATABASE IF EXISTS $DATABASE WITH (FORCE)" 2>/dev/null
}
finish() {
  local name
  for name in "${!PID[@]}"; do kill "${PID[$name]}" 2>/dev/null || true; done
  for name in "${!PID[@]}"; do wait "${PID[$name]}" 2>/dev/null || true; done
  remove_all || true
  rm -rf "$DIR"
}
trap finish EXIT

start_worker() {   # start_worker NAME: a worker on a free admin port, its log in $DIR
  : >"$DIR/$1.log"
  "$PINION" work --listen 127.0.0.1:0 2>>"$DIR/$1.log" &
  PID[$1]=$!
  local i
  for ((i = 0; i < 100; i++)); do
    ADMIN[$1]=$(grep -m1 -o '"admin_addr":"[^"]*"' "$DIR/$1.log" | cut -d'"' -f4) && break
    kill -0 "${PID[$1]}" 2>/dev/null || { cat "$DIR/$1.log" >&2; exit 1; }
    sleep 0.1
  done
}
metrics() { local name; for name in "${!ADMIN[@]}"; do curl -fsS "http://${ADMIN[$name]}/metrics"; done; }
done_documents() { metrics | awk '/^pinion_documents_total\{job="orders"/ {n += $2} END {print n + 0}'; }
wait_documents() {   # wait_documents COUNT: until so many documents of orders are settled
  local i seen=0
  for ((i = 0; i < 6000; i++)); do
    seen=$(done_documents); [ "$seen" -ge "$1" ] && return
    sleep 0.05
  done
  echo "demo: only $seen of $1 documents were settled" >&2; tail -n 5 "$DIR"/*.log >&2; exit 1
}
wait_field() {   # wait_field ID FILTER EXPECTED: until the document says so
  local i seen
  for ((i = 0; i < 600; i++)); do
    seen=$(curl -sS "$ELASTICSEARCH_URL/demo-orders/_doc/$1" | jq -r "$2")
    [ "$seen" = "$3" ] && return
    sleep 0.05
  done
  echo "demo: document $1 has $2 = $seen, expected $3" >&2; exit 1
}
settled_ids() { metrics | awk '/^pinion_(documents|coalesced)_total\{job="orders"/ {n += $2} END {print n + 0}'; }
wait_ids() {   # wait_ids COUNT: until so many ids of orders are settled, alone or joined to another
  local i seen=0
  for ((i = 0; i < 6000; i++)); do
    seen=$(settled_ids); [ "$seen" -ge "$1" ] && return
    sleep 0.05
  done
  echo "demo: only $seen of $1 ids were settled" >&2; exit 1
}
wait_quiet() {   # until nothing more is settled: two seconds without
  local seen=-1 now
  while now=$(settled_ids); [ "$now" != "$seen" ]; do seen=$now; sleep 2; done
}
cpu_ticks() { local name; for name in "${!PID[@]}"; do awk '{sub(/.*\) /, ""); print $12 + $13}' "/proc/${PID[$name]}/stat"; done | awk '{n += $1} END {print n}'; }
buckets() { metrics | awk -F'[{}" ]' '/^pinion_end_to_end_seconds_bucket\{/ && /job="orders"/ {
  for (i = 1; i <= NF; i++) if ($i ~ /le=$/) le = $(i + 1); n[le] += $NF} END {for (le in n) print le, n[le]}' | sort -g; }
quantile() { awk -v q="$1" 'NR == FNR {before[$1] = $2; next} {le[++n] = $1; c[n] = $2 - before[$1]} END {
  want = q * c[n]; for (i = 1; i <= n; i++) if (c[i] >= want) { low = i > 1 ? le[i - 1] : 0; base = i > 1 ? c[i - 1] : 0
    if (le[i] == "+Inf") { printf "over %.0f ms", low * 1000; exit }
    printf "%.0f ms", 1000 * (low + (le[i] - low) * (want - base) / (c[i] - base)); exit } }' "$DIR/before" "$DIR/after"; }

make_shop() {   # make_shop [SOURCE-LINES [LINES]]: the shop's database, jobs and configuration, with more lines in it
  step "A shop of $ORDERS orders"
  remove_all
  psql -X -q -h "$HOST" -p "$PG_PORT" -U postgres -d postgres -c "CREATE DATABASE $DATABASE"
  sql -v orders="$ORDERS" -f schemas/shop/database.sql >/dev/null
  sql -c "SELECT (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM order_items) AS items, (SELECT count(*) FROM customers) AS customers"
  cp -r schemas/shop "$DIR/jobs"
  sed -i "s/^index = \"/&demo-/" "$DIR"/jobs/*/job.toml
  cat >"$PINION_CONFIG" <<CONF
namespace = "$NAMESPACE"
schemas = "jobs"
[rabbitmq]
url = "amqp://guest:guest@$HOST:$RABBITMQ_PORT/%2f"
[elasticsearch]
urls = ["$ELASTICSEARCH_URL"]
[sources.shop]
kind = "postgres"
primary = "postgres://pinion:pinion@$HOST:$PG_PORT/$DATABASE"
replicas = ["postgres://pinion:pinion@$HOST:$PG_REPLICA_PORT/$DATABASE"]
${1:-}
${2:-}
CONF
  step "pinion apply: queues, indexes, mappings"
  "$PINION" apply
  step "pinion check"
  "$PINION" check
  step "Two workers"
  start_worker one; start_worker two
  echo "admin ports ${ADMIN[one]} and ${ADMIN[two]}"
}
look_around() {   # look_around COMMAND: where to look, and with KEEP=1 time for it
  step "Look around"
  cat <<TEXT
  pinion status, dead list, explain: KEEP=1 $1 holds everything while you look, with
    PINION_CONFIG=$PINION_CONFIG
  Workers:        http://${ADMIN[one]}/metrics  http://${ADMIN[one]}/readyz
  Elasticsearch:  $ELASTICSEARCH_URL/demo-orders/_search
  RabbitMQ:       http://$HOST:$((RABBITMQ_PORT + 1)) (guest, guest)
TEXT
  "$PINION" status || true
  if [ -n "${KEEP:-}" ]; then
    if [ -t 0 ]; then read -r -p "Enter cleans up. "; else sleep infinity & wait $!; fi
  fi
  step "Cleaning up"
}
