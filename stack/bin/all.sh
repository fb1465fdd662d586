#!/usr/bin/env bash
# all.sh start|stop|status|wipe [SERVICE...] - several services at once; without names rabbitmq elasticsearch pg kafka mariadb
# connect registry (elasticsearch9 and mysql only when named). They start side by side, Connect after the broker; they stop one by one,
# Connect first: without its broker it would wait until its own shutdown times out.
set -uo pipefail
. "$(dirname "$0")/env.sh"
usage() { sed -n '2,4p' "$0"; exit 2; }
cmd="${1:-}"; case "$cmd" in start|stop|status|wipe) shift ;; *) usage ;; esac
[ $# -gt 0 ] || set -- rabbitmq elasticsearch pg kafka mariadb registry connect
connect=""; list=()
for s in "$@"; do
  case "$s" in
    connect) connect=connect ;;
    rabbitmq|elasticsearch|elasticsearch9|pg|kafka|mariadb|mysql|registry) list+=("$s") ;;
    *) say "no such service: $s"; usage ;;
  esac
done
rc=0
start() {
  local s pids=()
  for s in "${list[@]}"; do "$BIN/$s.sh" start & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid" || rc=1; done
  [ "$rc" = 0 ] && [ -n "$connect" ] && { "$BIN/connect.sh" start || rc=1; }
}
case "$cmd" in
  start) start ;;
  # Connect keeps no files of its own: its state is in Kafka's topics.
  wipe) [ -z "$connect" ] || "$BIN/connect.sh" stop; for s in "${list[@]}"; do "$BIN/$s.sh" wipe || rc=1; done ;;
  *) for s in $connect "${list[@]}"; do "$BIN/$s.sh" "$cmd" || rc=1; done ;;
esac
exit $rc
