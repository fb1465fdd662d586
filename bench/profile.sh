#!/usr/bin/env bash
# profile.sh - where the worker's CPU time goes, in microseconds a document: samples of a run of the whole way, sorted by what the code is for.
#
#   bench/profile.sh [--allocations] [--orders N] [--programs FOLDER]
#
#   --allocations      count calls of malloc, calloc and realloc instead; every one is trapped, so the run is slow
#   --orders N         orders in the shop (200000)
#   --programs FOLDER  where `pinion` and `pinion-bench` are, instead of building them
#
# Needs perf (apt-get install linux-perf) and the right to use it, for --allocations that of the superuser. All of the worker's life is
# looked at, its start and end included.
set -euo pipefail
TOP=$(cd "$(dirname "$0")/.." && pwd)
usage() { sed -n '2,11p' "$0" | sed 's/^# \{0,1\}//'; }
wrong() { echo "profile.sh: $1; --help says what there is" >&2; exit 2; }

orders=200000 programs="" allocations=""
while [ $# -gt 0 ]; do
  case "$1" in
    --orders|--programs) [ $# -ge 2 ] || wrong "$1 needs a value"; if [ "$1" = --orders ]; then orders=$2; else programs=$2; fi; shift ;;
    --allocations) allocations=yes ;;
    --help|-h) usage; exit ;;
    *) wrong "no such option: $1" ;;
  esac
  shift
done
[[ $orders =~ ^[1-9][0-9]*$ ]] || wrong "not a number above 0: $orders"
command -v perf >/dev/null || wrong "perf is missing (apt-get install linux-perf)"
if [ -z "$programs" ]; then
  "$TOP/stack/bin/build-tools.sh"
  (cd "$TOP" && cargo build --release --quiet -p pinion-worker -p pinion-bench)
  programs=$(cd "$TOP" && cd "${CARGO_TARGET_DIR:-target}/release" && pwd)
fi

work=$(mktemp -d)
functions=(malloc calloc realloc)
finish() {
  rm -r "$work"
  [ -z "$allocations" ] || perf probe -q -d 'pinion_bench:*' || true
}
trap finish EXIT
if [ -n "$allocations" ]; then
  libc=$(ldd "$programs/pinion" | awk '/libc\.so/ { print $3 }')
  for function in "${functions[@]}"; do perf probe -q -x "$libc" "pinion_bench:$function=$function"; done
fi
"$TOP/bench/run.sh" --orders "$orders" --runs 1 --feed-events 0 --programs "$programs" --markdown "$work/report.md" -- --latency-seconds 0 > "$work/run.log" 2>&1 &
run=$!

# A moment, unless the run has failed.
moment() {
  kill -0 "$run" 2>/dev/null || { cat "$work/run.log" >&2; exit 1; }
  sleep 0.02
}
until grep -q '^run 1: raw bulk' "$work/run.log"; do moment; done
# The workers of the passes after the warm-up, one after the other: one id a message, one id a call, which is not shown, then 100 ids a message.
worker() { pgrep -f "^$programs/pinion .*work" | head -n 1 || true; }
for pass in one call hundred; do
  until pid=$(worker) && [ -n "$pid" ]; do moment; done
  if [ -n "$allocations" ]; then
    perf stat -x , -e "$(printf 'pinion_bench:%s,' "${functions[@]}" | sed 's/,$//')" -p "$pid" -o "$work/$pass.counts" >/dev/null 2>&1 || true
  else
    perf record -q -e cpu-clock -F 1999 -p "$pid" -o "$work/$pass.data" >/dev/null 2>&1 || true
  fi
done
wait "$run" || { cat "$work/run.log" >&2; exit 1; }

if [ -n "$allocations" ]; then
  echo "| calls a document | one id a message | 100 ids a message |"
  echo "| --- | ---: | ---: |"
  for function in "${functions[@]}"; do
    awk -F , -v "function_=$function" -v documents="$orders" '
      $0 ~ ":" function_ "," { figures = figures sprintf(" %.2f |", $1 / documents) }
      END { print "| " function_ " |" figures }' "$work/one.counts" "$work/hundred.counts"
  done
  exit
fi

sorted() {
  perf script -i "$work/$1.data" -F comm,period,ip,sym,dso 2>/dev/null | awk -v documents="$orders" '
    match($0, / [0-9]+ +[0-9a-f]+ /) {
      split(substr($0, RSTART, RLENGTH), numbers, " ")
      nanoseconds[what(substr($0, 1, RSTART), substr($0, RSTART + RLENGTH))] += numbers[1]
    }
    function what(thread, text) {
      if (thread ~ /lapin/) return "lapin'"'"'s thread: frames of AMQP"
      if (text ~ /kernel|\[k\]|vdso/) {
        if (text ~ /copy_(from|to)_iter|tcp_|skb|sock|inet|ip_|net_|loopback|iov/) return "kernel: sockets"
        return "kernel: waking, sleeping, memory and the rest"
      }
      if (text ~ /malloc|free|calloc|realloc|unlink_chunk|sysmalloc/) return "memory: allocating"
      if (text ~ /memmove|memcpy|memset|memcmp/) return "memory: copying and comparing"
      if (text ~ /pinion_worker::(postgres|mysql|json|pipeline::build)/) return "rows become documents"
      if (text ~ /pinion_worker::|pinion_schemas::|hashbrown|prometheus/) return "the pipeline: messages, batches, settling, metrics"
      if (text ~ /serde|simdutf8|from_utf8/) return "JSON: messages and answers"
      if (text ~ /sqlx/) return "sqlx"
      if (text ~ /lapin|amq_protocol|nom::|cookie_factory|pinky/) return "lapin"
      if (text ~ /hyper|reqwest|http|elasticsearch|url::/) return "HTTP"
      if (text ~ /tokio|futures|mio|tracing|parking_lot|std::sync|core::sync/) return "tokio"
      return "other"
    }
    END { for (name in nanoseconds) printf "%s\t%.2f\n", name, nanoseconds[name] / 1000 / documents }'
}
join -t $'\t' -a 1 -a 2 -e 0.00 -o 0,1.2,2.2 <(sorted one | sort -t $'\t' -k 1,1) <(sorted hundred | sort -t $'\t' -k 1,1) |
  sort -t $'\t' -k 2,2nr | awk -F '\t' '
    BEGIN { print "| µs of the worker'"'"'s CPU a document | one id a message | 100 ids a message |\n| --- | ---: | ---: |" }
    { printf "| %s | %.2f | %.2f |\n", $1, $2, $3; one += $2; hundred += $3 }
    END { printf "| all | %.2f | %.2f |\n", one, hundred }'
