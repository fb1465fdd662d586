#!/usr/bin/env bash
# shop.sh - the demonstration itself, on services that run. Started by run.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. stack/bin/env.sh
need jq jq; need psql postgresql-client; need curl curl
ORDERS=${ORDERS:-20000}; CHANGES=${CHANGES:-2000}
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
cpu_ticks() { local name; for name in "${!PID[@]}"; do awk '{sub(/.*\) /, ""); print $12 + $13}' "/proc/${PID[$name]}/stat"; done | awk '{n += $1} END {print n}'; }
buckets() { metrics | awk -F'[{}" ]' '/^pinion_end_to_end_seconds_bucket\{/ && /job="orders"/ {
  for (i = 1; i <= NF; i++) if ($i ~ /le=$/) le = $(i + 1); n[le] += $NF} END {for (le in n) print le, n[le]}' | sort -g; }

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
CONF

step "pinion apply: queues, indexes, mappings"
"$PINION" apply
step "pinion check"
"$PINION" check
step "Two workers"
start_worker one; start_worker two
echo "admin ports ${ADMIN[one]} and ${ADMIN[two]}"

step "$ORDERS orders enqueued, one message each"
ticks=$(cpu_ticks); began=$(now_ms)
seq 1 "$ORDERS" | "$PINION" enqueue orders -
wait_documents "$ORDERS"
took=$(( $(now_ms) - began )); ticks=$(( $(cpu_ticks) - ticks ))
es demo-orders/_refresh >/dev/null
echo "$(es demo-orders/_count | jq .count) documents in the index after $took ms"

step "Live changes: a status, a moved item, a deleted order"
item=$(sql -tAc "SELECT id FROM order_items WHERE order_id = 2 ORDER BY id LIMIT 1")
before=$(es demo-orders/_doc/3 | jq '._source.items | length')
sql -c "UPDATE orders SET status = 'cancelled' WHERE id = 1"
sql -c "UPDATE order_items SET order_id = 3 WHERE id = $item"
sql -c "DELETE FROM deliveries WHERE order_id = 4; DELETE FROM order_items WHERE order_id = 4; DELETE FROM orders WHERE id = 4"
"$PINION" enqueue orders 1 2 3 4
wait_field 1 ._source.status cancelled
wait_field 3 '._source.items | length' $((before + 1))
wait_field 4 .found false
echo "order 1 is cancelled, order 3 has $((before + 1)) items (one of them was order 2's), order 4 is gone"
"$PINION" explain orders 1 || true

step "$CHANGES single changes, each enqueued after its commit"
settled=$(done_documents); buckets >"$DIR/before"
for ((i = 1; i <= CHANGES; i++)); do echo $((5 + (i * 7919) % (ORDERS - 4))); done >"$DIR/ids"
split -l 20 "$DIR/ids" "$DIR/part."
for part in "$DIR"/part.*; do
  sql -c "UPDATE orders SET status = 'delivered', updated_at = now() WHERE id IN ($(paste -sd, "$part"))"
  cat "$part"
done | "$PINION" enqueue orders - 
wait_documents $((settled + CHANGES))
buckets >"$DIR/after"

step "An analyst's questions"
echo "Revenue by city and month, the five largest:"
es demo-orders/_search -d '{"size": 0, "query": {"bool": {"must_not": {"term": {"status": "cancelled"}}}}, "aggs": {"city": {"terms": {"field": "customer.city", "size": 20},
  "aggs": {"month": {"date_histogram": {"field": "placed_at", "calendar_interval": "month", "format": "yyyy-MM"}, "aggs": {"revenue": {"sum": {"field": "total"}}}}}}}}' |
  jq -r '[.aggregations.city.buckets[] | .key as $city | .month.buckets[] | [$city, .key_as_string, .revenue.value, .doc_count]] | sort_by(-.[2])[:5][] | "  \(.[0])\t\(.[1])\t\(.[2] | round)\t\(.[3]) orders"' | column -t -s $'\t'
echo "Top merchants:"
es demo-orders/_search -d '{"size": 0, "aggs": {"merchant": {"terms": {"field": "merchant.id", "size": 5, "order": {"revenue": "desc"}}, "aggs": {"revenue": {"sum": {"field": "total"}}, "name": {"top_hits": {"size": 1, "_source": ["merchant.name"]}}}}}}' |
  jq -r '.aggregations.merchant.buckets[] | "  \(.name.hits.hits[0]._source.merchant.name)\t\(.revenue.value | round)\t\(.doc_count) orders"' | column -t -s $'\t'

step "Figures of this run"
quantile() { awk -v q="$1" 'NR == FNR {before[$1] = $2; next} {le[++n] = $1; c[n] = $2 - before[$1]} END {
  want = q * c[n]; for (i = 1; i <= n; i++) if (c[i] >= want) { low = i > 1 ? le[i - 1] : 0; base = i > 1 ? c[i - 1] : 0
    if (le[i] == "+Inf") { printf "over %.0f ms", low * 1000; exit }
    printf "%.0f ms", 1000 * (low + (le[i] - low) * (want - base) / (c[i] - base)); exit } }' "$DIR/before" "$DIR/after"; }
printf '  %-42s %s\n' "documents a second, from the first message" "$(awk -v n="$ORDERS" -v ms="$took" 'BEGIN {printf "%.0f", n * 1000 / ms}')" \
  "workers' CPU a document" "$(awk -v t="$ticks" -v n="$ORDERS" -v hz="$(getconf CLK_TCK)" 'BEGIN {printf "%.1f us", t * 1e6 / hz / n}')" \
  "message to indexed, live changes, p50" "$(quantile 0.5)" "message to indexed, live changes, p99" "$(quantile 0.99)"

step "Look around"
cat <<TEXT
  pinion status, dead list, explain: KEEP=1 make demo holds everything while you look, with
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
