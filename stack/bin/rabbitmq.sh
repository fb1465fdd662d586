#!/usr/bin/env bash
# rabbitmq.sh start|stop|restart|status|wipe|ctl [ARGS...] - one RabbitMQ node of its own on loopback, with the
# management API and Prometheus endpoint. User guest / guest. Several can run: another NODE and RABBITMQ_PORT.
# RABBITMQ_LINES are more lines for its rabbitmq.conf.
# RABBITMQ_PORT is AMQP; +1 management, +2 Prometheus, +3 Erlang distribution, +4 Erlang's port mapper.
set -euo pipefail
. "$(dirname "$0")/env.sh"
NODE="${NODE:-rabbitmq}"; DIR="$DATA/$NODE"

environment() {
  RABBIT=$(ls -d /usr/lib/rabbitmq/lib/rabbitmq_server-* | tail -1)/sbin   # the wrappers on PATH insist on /var/lib and a user of their own
  export HOME="$DIR" RABBITMQ_NODENAME="$NODE@localhost" RABBITMQ_BASE="$DIR" RABBITMQ_MNESIA_BASE="$DIR/mnesia" RABBITMQ_LOG_BASE="$LOGS/$NODE" \
    RABBITMQ_PID_FILE="$DIR/pid" RABBITMQ_CONFIG_FILE="$DIR/rabbitmq" RABBITMQ_ENABLED_PLUGINS_FILE="$DIR/enabled_plugins" \
    RABBITMQ_NODE_IP_ADDRESS=$HOST RABBITMQ_NODE_PORT="$RABBITMQ_PORT" RABBITMQ_DIST_PORT=$((RABBITMQ_PORT + 3)) \
    ERL_EPMD_PORT=$((RABBITMQ_PORT + 4)) ERL_EPMD_ADDRESS=$HOST LANG=C.UTF-8
  # Loopback only, and schedulers that don't spin while idle (RabbitMQ's own advice for machines that it shares).
  export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none'
}
ready() { port_open "$RABBITMQ_PORT" && curl -fsS -m 5 -u guest:guest "http://$HOST:$((RABBITMQ_PORT + 1))/api/overview"; }
start() {
  need curl curl ca-certificates
  need /usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server
  mkdir -p "$DIR/mnesia" "$LOGS/$NODE"; environment
  already_up "$NODE" ready && { say "$NODE: already up on $HOST:$RABBITMQ_PORT"; return; }
  free_port "$RABBITMQ_PORT"
  local t0; t0=$(now_ms)
  echo '[rabbitmq_management,rabbitmq_prometheus,rabbitmq_consistent_hash_exchange].' >"$DIR/enabled_plugins"
  cat >"$DIR/rabbitmq.conf" <<CONF
management.tcp.ip = $HOST
management.tcp.port = $((RABBITMQ_PORT + 1))
prometheus.tcp.ip = $HOST
prometheus.tcp.port = $((RABBITMQ_PORT + 2))
disk_free_limit.absolute = 100MB
log.console = true
log.console.level = warning
${RABBITMQ_LINES:-}
CONF
  cd "$DIR"   # where Erlang leaves what it dumps
  launch "$NODE" "$RABBIT/rabbitmq-server"
  wait_ready "$NODE" 180 ready
  local beam; beam=$(cat "$DIR/pid"); echo "$beam $(proc_start "$beam")" >"$RUN/$NODE.pid"   # the server itself, not the shell before it
  say "$NODE: ready on $HOST:$RABBITMQ_PORT after $(( $(now_ms) - t0 )) ms"
}
stop() {
  stop_pid "$NODE"   # on SIGTERM it stops in good order
  # The port mapper outlives a node that was killed.
  if port_open $((RABBITMQ_PORT + 4)); then epmd -port $((RABBITMQ_PORT + 4)) -kill >/dev/null 2>&1 || true; fi
}
case "${1:-}" in
  start) start ;;
  stop) stop ;;
  restart) stop; start ;;
  status) status "$NODE" ;;
  wipe) stop; rm -rf "$DIR" "$LOGS/$NODE" "$LOGS/$NODE.log"; say "$NODE: wiped" ;;
  ctl) shift; environment; "$RABBIT/rabbitmqctl" "$@" ;;
  *) sed -n '2,5p' "$0"; exit 2 ;;
esac
