#!/usr/bin/env bash
# shop.sh - the demonstration of the queue, on services that run. Started by run.sh.
set -euo pipefail
. "$(dirname "$0")/common.sh"
CHANGES=${CHANGES:-2000}

make_shop
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
printf '  %-42s %s\n' "documents a second, from the first message" "$(awk -v n="$ORDERS" -v ms="$took" 'BEGIN {printf "%.0f", n * 1000 / ms}')" \
  "workers' CPU a document" "$(awk -v t="$ticks" -v n="$ORDERS" -v hz="$(getconf CLK_TCK)" 'BEGIN {printf "%.1f us", t * 1e6 / hz / n}')" \
  "message to indexed, live changes, p50" "$(quantile 0.5)" "message to indexed, live changes, p99" "$(quantile 0.99)"

look_around "make demo"
