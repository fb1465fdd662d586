#!/usr/bin/env bash
# registry.sh start|stop|restart|status|wipe|url - a schema registry (Apicurio) on loopback that
# speaks Confluent's API.  Clients take the address that `url` prints as schema.registry.url.
# Schemas are kept in an H2 file under data/registry; MEMORY=1 keeps them in memory only.
# REGISTRY_JAVA: a java of version 21 or newer, for Apicurio 3.x.
set -euo pipefail
. "$(dirname "$0")/env.sh"
DIR="$LAB/apicurio-$APICURIO_VERSION"; RDATA="$DATA/registry"

ready() { curl -fsS -m 5 "$REGISTRY_URL/subjects"; }
start() {
  need curl curl ca-certificates
  use_java 17
  already_up registry ready && { say "registry: already up on $REGISTRY_URL"; return; }
  [ -s "$DIR/.stamp" ] || "$BIN/fetch.sh" apicurio
  free_port "$REGISTRY_PORT"
  local t0 jar; t0=$(now_ms)
  for jar in "$DIR/quarkus-run.jar" "$DIR"/apicurio-registry-app-*-runner.jar; do [ -f "$jar" ] && break; done
  # Without these two Quarkus listens on 0.0.0.0 (3.x has a management port as well).
  export QUARKUS_HTTP_HOST=$HOST QUARKUS_HTTP_PORT=$REGISTRY_PORT
  export QUARKUS_MANAGEMENT_HOST=$HOST QUARKUS_MANAGEMENT_PORT=$REGISTRY_MGMT_PORT
  if [ -z "${MEMORY:-}" ]; then
    mkdir -p "$RDATA"
    # 2.x and 3.x name the same setting differently; the other one is ignored.
    export REGISTRY_DATASOURCE_URL="jdbc:h2:file:$RDATA/db" APICURIO_DATASOURCE_URL="jdbc:h2:file:$RDATA/db"
  fi
  launch registry "${REGISTRY_JAVA:-$JAVA}" $REGISTRY_HEAP $SERVER_GC -jar "$jar"
  wait_ready registry 90 ready
  say "registry: ready on $REGISTRY_URL after $(( $(now_ms) - t0 )) ms"
}
case "${1:-}" in
  start) start ;;
  stop) stop_pid registry ;;
  restart) stop_pid registry; start ;;
  status) status registry ;;
  wipe) stop_pid registry; rm -rf "$RDATA"; say "registry: wiped" ;;
  url) echo "$REGISTRY_URL" ;;
  *) sed -n '2,5p' "$0"; exit 2 ;;
esac
