#!/usr/bin/env bash
# feed.sh - the demonstration of the change feed, on services that run: rows change in SQL, nobody sends a message. Started by run.sh.
set -euo pipefail
. "$(dirname "$0")/common.sh"
SECONDS_WARMING=${SECONDS_WARMING:-20}; SECONDS_MEASURED=${SECONDS_MEASURED:-20}
CONNECTOR=pinion-demo; PREFIX=pinion-demo

remove_feed() {   # the connector, then its slot, without which the database can be dropped
  "$BIN/connect.sh" reset "$CONNECTOR" >/dev/null 2>&1 || true
  "$BIN/kafka.sh" topics --delete --if-exists --topic "(__debezium-heartbeat\\.)?$PREFIX(\\..*)?" >/dev/null 2>&1 || true
  local i slots="FROM pg_replication_slots WHERE slot_name = 'pinion_demo'"
  for ((i = 0; i < 100; i++)); do
    psql -X -qtA -h "$HOST" -p "$PG_PORT" -U postgres -d postgres -c "SELECT pg_drop_replication_slot(slot_name) $slots AND NOT active" >/dev/null
    [ "$(psql -X -qtA -h "$HOST" -p "$PG_PORT" -U postgres -d postgres -c "SELECT count(*) $slots")" = 0 ] && return
    sleep 0.1
  done
}
trap 'remove_feed; finish' EXIT
remove_feed

make_shop 'topic_prefix = "'"$PREFIX"'"' '[kafka]
brokers = ["'"$BOOTSTRAP"'"]
topics = ["'"$PREFIX"'.public.*"]
group = "pinion-demo-'"$(now_ms)"'"'

step "Debezium's connector, from deploy/debezium"
# The role is there already, with the password that stack/README.md tells.
sql -v publication=pinion_demo -v password=dbz -f deploy/debezium/postgres.sql
jq '."topic.prefix" = "'"$PREFIX"'" | ."database.password" = "dbz" | ."database.hostname" = "'"$HOST"'" | ."database.port" = "'"$PG_PORT"'" | ."database.dbname" = "'"$DATABASE"'" | ."slot.name" = "pinion_demo"
  | ."publication.name" = "pinion_demo"' deploy/debezium/postgres.json | "$BIN/connect.sh" put "$CONNECTOR" -

step "All $ORDERS orders are touched in one statement"
began=$(now_ms)
sql -c "UPDATE orders SET updated_at = updated_at"
wait_documents "$ORDERS"
took=$(( $(now_ms) - began ))
es demo-orders/_refresh >/dev/null
echo "$(es demo-orders/_count | jq .count) documents in the index after $took ms"

step "A status, a moved item, a renamed customer, a deleted order, a truncated table"
item=$(sql -tAc "SELECT id FROM order_items WHERE order_id = 2 ORDER BY id LIMIT 1")
customer=$(sql -tAc "SELECT customer_id FROM orders WHERE id = 5")
before=$(es demo-orders/_doc/3 | jq '._source.items | length')
sql -c "UPDATE orders SET status = 'cancelled' WHERE id = 1"
sql -c "UPDATE order_items SET order_id = 3 WHERE id = $item"
sql -c "UPDATE customers SET name = 'Renamed' WHERE id = $customer"
sql -c "DELETE FROM deliveries WHERE order_id = 4; DELETE FROM order_items WHERE order_id = 4; DELETE FROM orders WHERE id = 4"
wait_field 1 ._source.status cancelled
wait_field 3 '._source.items | length' $((before + 1))
wait_field 5 ._source.customer.name Renamed
wait_field 4 .found false
echo "order 1 is cancelled, order 3 has $((before + 1)) items, order 5 knows its customer's new name, order 4 is gone"
delivered=$(sql -tAc "SELECT max(order_id) FROM deliveries")
sql -c "TRUNCATE deliveries"
wait_field "$delivered" ._source.delivery.rider null
echo "order $delivered, the last of those that had a delivery, has none"
wait_quiet

changes() {   # changes SECONDS FIRST: 1,000 changes a second, ten orders in a transaction, followed to the last
  local settled i k ids
  settled=$(settled_ids)
  {
    echo "SELECT clock_timestamp() AS began \\gset"
    for ((i = 0; i < $1 * 100; i++)); do
      ids=""; for ((k = 0; k < 10; k++)); do ids+=",$((6 + ($2 + i * 10 + k) * 7919 % (ORDERS - 5)))"; done
      echo "UPDATE orders SET updated_at = greatest(now(), placed_at) WHERE id IN (${ids#,});"
      echo "SELECT pg_sleep(greatest(0, extract(epoch FROM :'began'::timestamptz + $i * interval '10 ms' - clock_timestamp())));"
    done
  } >"$DIR/changes.sql"
  sql -t -f "$DIR/changes.sql" >/dev/null
  wait_ids $((settled + $1 * 1000))
}
step "1,000 changes a second: $SECONDS_WARMING seconds to warm up (Java compiles what it runs often), then $SECONDS_MEASURED that are measured"
changes "$SECONDS_WARMING" 0
wait_quiet
buckets >"$DIR/before"
changes "$SECONDS_MEASURED" $((SECONDS_WARMING * 1000))
buckets >"$DIR/after"

step "Figures of this run"
printf '  %-42s %s\n' "documents a second, from the commit" "$(awk -v n="$ORDERS" -v ms="$took" 'BEGIN {printf "%.0f", n * 1000 / ms}')" \
  "commit to indexed, p50" "$(quantile 0.5)" "commit to indexed, p99" "$(quantile 0.99)"
look_around "make demo-feed"
