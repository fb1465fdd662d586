#!/usr/bin/env bash
# connect.sh - Kafka Connect (distributed mode, one worker, REST on loopback).
# A second one: another NODE, CONNECT_PORT, BROKER_PORT.
#   connect.sh start|stop|restart|status|wipe
#   connect.sh plugins                 the connector classes that the worker found
#   connect.sh put NAME FILE.json      create or replace a connector (JSON: its config only;
#                                      "-" reads stdin) and wait until connector and task run
#   connect.sh wait NAME [SECONDS]     wait until connector and task run
#   connect.sh show NAME               state as JSON
#   connect.sh rm NAME                 delete a connector; its saved position stays
#   connect.sh reset NAME              forget its position too: the next put snapshots again
set -euo pipefail
. "$(dirname "$0")/env.sh"
NODE="${NODE:-connect}"; CONF="$RUN/$NODE.properties"

write_conf() {
  cat >"$CONF" <<CONF
bootstrap.servers=$BOOTSTRAP
group.id=$CONNECT_GROUP
listeners=http://$HOST:$CONNECT_PORT
rest.advertised.host.name=$HOST
rest.advertised.port=$CONNECT_PORT
plugin.path=$PLUGINS
# The default scans every jar by reflection as well (hybrid_warn); Debezium ships
# ServiceLoader manifests, so the quick way finds everything.
plugin.discovery=${PLUGIN_DISCOVERY:-service_load}
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
key.converter.schemas.enable=false
value.converter.schemas.enable=false
# The three topics that hold Connect's state.  One node: one replica.
config.storage.topic=_$CONNECT_GROUP-configs
offset.storage.topic=_$CONNECT_GROUP-offsets
status.storage.topic=_$CONNECT_GROUP-status
config.storage.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
offset.storage.partitions=1
status.storage.partitions=1
# How soon the position in the source is saved: a killed worker repeats at most this much.
offset.flush.interval.ms=1000
# One worker: do not hold tasks back for a departed worker to return (default 5 minutes).
scheduled.rebalance.max.delay.ms=0
CONF
}

# Answers only once the worker has joined its group and read its topics.
ready() { curl -fsS -m 5 "$CONNECT_URL/connectors"; }

start() {
  use_java 17
  already_up "$NODE" ready && { say "$NODE: already up on $CONNECT_URL"; return; }
  for p in postgres mysql mariadb; do
    [ -s "$PLUGINS/debezium-connector-$p/.stamp" ] || { "$BIN/fetch.sh" debezium; break; }
  done
  [ -s "$PLUGINS/apicurio-converter/.stamp" ] || "$BIN/fetch.sh" converter
  port_open "$BROKER_PORT" || die "no broker on $BOOTSTRAP: run kafka.sh start first"
  free_port "$CONNECT_PORT"
  local t0; t0=$(now_ms)
  write_conf
  mkdir -p "$DATA/$NODE"   # empty: its state is in Kafka's topics; but what is there is seen to be there
  launch "$NODE" "$JAVA" $CONNECT_HEAP $SERVER_GC -Dlog4j2.configurationFile="$HERE/conf/log4j2-server.properties" \
    -cp "$LIB/*" org.apache.kafka.connect.cli.ConnectDistributed "$CONF"
  wait_ready "$NODE" 120 ready
  say "$NODE: ready on $CONNECT_URL after $(( $(now_ms) - t0 )) ms"
}

# Print the states as one line: connector's first, then each task's.
states() {
  # ... and after them the reason of each failure, without its stack.
  curl -sS -m 5 "$CONNECT_URL/connectors/$1/status" 2>/dev/null | jq -r '[.connector, .tasks[]] | (map(.state) | join(" ")),
    (.[] | .trace // empty | split("\n")[] | select(startswith("\t") | not) | "  " + .)' 2>/dev/null || true
}

# wait_running NAME [SECONDS] [RETRIES]: RETRIES restarts are tried when a task has failed
wait_running() {
  local name=$1 limit=${2:-60} retries=${3:-0} end st; end=$(( $(date +%s) + limit ))
  while :; do
    st=$(states "$name")
    case "${st%%$'\n'*}" in
      *FAILED*)
        [ "$retries" -gt 0 ] || die "connector $name: $st"
        retries=$((retries - 1))
        curl -sS -o /dev/null -X POST "$CONNECT_URL/connectors/$name/restart?includeTasks=true&onlyFailed=true"
        sleep 0.5 ;;
      "RUNNING RUNNING"*) say "connector $name: $st"; return 0 ;;
    esac
    [ "$(date +%s)" -lt "$end" ] || die "connector $name not running after ${limit}s (state: ${st:-none})"
    sleep 0.2
  done
}

put() {   # PUT .../config creates or updates, so it may be repeated
  local name=$1 file=$2 out="$RUN/put-$1.out" code
  code=$(curl -sS -o "$out" -w '%{http_code}' -X PUT -H 'Content-Type: application/json' \
    --data-binary @"$file" "$CONNECT_URL/connectors/$name/config")
  case "$code" in 200|201) ;; *) cat "$out" >&2; echo >&2; die "PUT $name: HTTP $code" ;; esac
  # PUT of an unchanged config does not restart a task that had failed before.
  wait_running "$name" 60 1
}

need curl curl ca-certificates
need jq jq
case "${1:-}" in
  start) start ;;
  stop) stop_pid "$NODE" ;;
  restart) stop_pid "$NODE"; start ;;
  status) status "$NODE" ;;
  wipe) stop_pid "$NODE"; rm -rf "${DATA:?}/$NODE" "$CONF" "$LOGS/$NODE.log"; say "$NODE: wiped" ;;
  plugins) curl -fsS "$CONNECT_URL/connector-plugins" | jq -r '.[] | "\(.type) \(.class) \(.version)"' ;;
  put) put "$2" "$3" ;;
  wait) wait_running "$2" "${3:-60}" ;;
  show) curl -fsS "$CONNECT_URL/connectors/$2/status"; echo ;;
  rm) curl -sS -o /dev/null -w '%{http_code}\n' -X DELETE "$CONNECT_URL/connectors/$2" ;;
  # Offsets can be deleted only while the connector exists and is STOPPED (Kafka 3.6+).
  reset) curl -fsS -X PUT "$CONNECT_URL/connectors/$2/stop"
         for ((i = 0; i < 50; i++)); do [ "$(states "$2")" = STOPPED ] && break; sleep 0.2; done
         curl -sS -X DELETE "$CONNECT_URL/connectors/$2/offsets"; echo
         curl -fsS -X DELETE "$CONNECT_URL/connectors/$2" ;;
  *) sed -n '2,11p' "$0"; exit 2 ;;
esac
