#!/usr/bin/env bash
# elasticsearch.sh start|stop|restart|status|wipe|url|available - one real Elasticsearch node on loopback.
# Core mappings (no scaled_float, no painless, no _reindex: those modules are not on Maven Central), bulk,
# external versions, aggregations, aliases. No security: put a TLS proxy before it to test that.
# A second node: another NODE, ELASTICSEARCH_PORT. EXTRA holds more lines for elasticsearch.yml
# (for example thread_pool.write.queue_size: 10, to see 429s). `available`: does a JDK for this version exist or can it be had?
set -euo pipefail
. "$(dirname "$0")/env.sh"
NODE="${NODE:-elasticsearch}"
DIR="$LAB/elasticsearch-$ELASTICSEARCH_VERSION"; HOME_DIR="$DATA/$NODE"

ready() { curl -fsS -m 5 "$ELASTICSEARCH_URL/_cluster/health?wait_for_status=yellow&timeout=1s"; }
start() {
  need curl curl ca-certificates
  already_up "$NODE" ready && { say "$NODE: already up on $ELASTICSEARCH_URL"; return; }
  use_java $(elasticsearch_java)
  [ -s "$DIR/.stamp" ] || "$BIN/fetch.sh" elasticsearch
  free_port "$ELASTICSEARCH_PORT"
  local t0; t0=$(now_ms)
  mkdir -p "$HOME_DIR/config" "$HOME_DIR/plugins"; ln -sfn "$DIR/modules" "$HOME_DIR/modules"
  cat >"$HOME_DIR/config/elasticsearch.yml" <<CONF
cluster.name: local
node.name: $NODE
discovery.type: single-node
network.host: $HOST
http.port: $ELASTICSEARCH_PORT
transport.port: $((ELASTICSEARCH_PORT + 100))
path.data: $HOME_DIR/data
path.logs: $LOGS
cluster.routing.allocation.disk.threshold_enabled: false
${EXTRA:-}
CONF
  launch "$NODE" "$JAVA" -Xms"$ELASTICSEARCH_HEAP" -Xmx"$ELASTICSEARCH_HEAP" -XX:+UseG1GC -XX:+ExitOnOutOfMemoryError $ELASTICSEARCH_JAVA \
    -cp "$DIR/lib/*" local.LocalNode "$HOME_DIR"
  wait_ready "$NODE" 180 ready
  say "$NODE: ready on $ELASTICSEARCH_URL after $(( $(now_ms) - t0 )) ms"
}
case "${1:-}" in
  start) start ;;
  stop) stop_pid "$NODE" ;;
  restart) stop_pid "$NODE"; start ;;
  status) status "$NODE" ;;
  wipe) stop_pid "$NODE"; rm -rf "$HOME_DIR" "$LOGS/$NODE.log"; say "$NODE: wiped" ;;
  url) echo "$ELASTICSEARCH_URL" ;;
  available) case "$(elasticsearch_java)" in 17*) ;; *) java_home $(elasticsearch_java) >/dev/null ;; esac ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac
