#!/usr/bin/env bash
# kafka.sh start|stop|status|wipe|restart - one Kafka broker (KRaft, combined
# broker + controller, single node) on loopback. A second one: another NODE, BROKER_PORT, CONTROLLER_PORT.
# Clients of PROXIED_PORT, where that is set, are told to come back by way of PROXY_PORT.
#   start   format the storage on first use, start, wait until it answers
#   wipe    stop and forget all topics
#   topics  kafka-topics, such as `topics --list` or `topics --delete --topic 'shop\..*'`
set -euo pipefail
. "$(dirname "$0")/env.sh"
NODE="${NODE:-kafka}"; KDATA="$DATA/$NODE"; CONF="$RUN/$NODE.properties"

write_conf() {
  cat >"$CONF" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=$HOST:$CONTROLLER_PORT
listeners=PLAINTEXT://$HOST:$BROKER_PORT,CONTROLLER://$HOST:$CONTROLLER_PORT${PROXIED_PORT:+,PROXIED://$HOST:$PROXIED_PORT}
advertised.listeners=PLAINTEXT://$HOST:$BROKER_PORT,CONTROLLER://$HOST:$CONTROLLER_PORT${PROXIED_PORT:+,PROXIED://$HOST:$PROXY_PORT}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
log.dirs=$KDATA
# One node, so every internal topic has one replica; few partitions start faster
# (the defaults are 50 each for offsets and transactions).
default.replication.factor=1
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
min.insync.replicas=1
# A laboratory's consumer groups should not wait 3 s for more members to join.
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=true
# Small thread pools and a small dedupe buffer (default 128 MiB) for a 512 MiB heap.
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
CONF
}

ready() { port_open "$BROKER_PORT" && grep -q 'Kafka Server started' "$LOGS/$NODE.log"; }

start() {
  use_java 17
  already_up "$NODE" ready && { say "$NODE: already up on $BOOTSTRAP"; return; }
  [ -s "$LIB/.stamp" ] || "$BIN/fetch.sh" kafka
  free_port "$BROKER_PORT"
  local t0; t0=$(now_ms)
  write_conf
  # meta.properties exists exactly when the folder has been formatted.
  if [ ! -f "$KDATA/meta.properties" ]; then
    local id; id=$(kafka_tool kafka.tools.StorageTool random-uuid)
    kafka_tool kafka.tools.StorageTool format --standalone -t "$id" -c "$CONF" >"$LOGS/$NODE-format.log" 2>&1 \
      || { cat "$LOGS/$NODE-format.log" >&2; die "format failed"; }
  fi
  launch "$NODE" "$JAVA" $BROKER_HEAP $SERVER_GC -Dlog4j2.configurationFile="$HERE/conf/log4j2-server.properties" \
    -cp "$LIB/*" kafka.Kafka "$CONF"
  wait_ready "$NODE" 90 ready
  say "$NODE: ready on $BOOTSTRAP after $(( $(now_ms) - t0 )) ms"
}

case "${1:-}" in
  start) start ;;
  stop) stop_pid "$NODE" ;;
  restart) stop_pid "$NODE"; start ;;
  status) status "$NODE" ;;
  wipe) stop_pid "$NODE"; rm -rf "$KDATA" "$CONF" "$LOGS/$NODE.log" "$LOGS/$NODE-format.log"; say "$NODE: wiped" ;;
  topics) shift; use_java 17; kafka_tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$BOOTSTRAP" "$@" ;;
  *) sed -n '2,7p' "$0"; exit 2 ;;
esac
