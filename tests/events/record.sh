#!/usr/bin/env bash
# record.sh - record the events of real connectors that the unit tests decode (schemas/tests/events), on the services of stack/.
#   tests/events/record.sh                  on PostgreSQL and MariaDB; those services that were not running are stopped afterwards
#   tests/events/record.sh postgres         on one of them
# A database of its own is filled (DATABASE.sql), changed (DATABASE-changes.sql) and followed by five connectors at once, so that every
# format tells of the same changes. A file is replaced only when all of its database's are there; the tests name the changes, so they have
# to be run, and looked at, after each recording. What is there was recorded with PostgreSQL 15, MariaDB 10.11, Kafka Connect 4.1.2,
# Debezium 3.5.0.Final and Apicurio's converter 2.6.13.Final, by the settings of deploy/debezium.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" != "on-services" ]; then
  case "${*:-}" in ""|postgres|mariadb) ;; *) sed -n '2,4p' "$0"; exit 2 ;; esac
  exec stack/bin/with.sh pg mariadb kafka connect registry -- tests/events/record.sh on-services ${1:-postgres mariadb}
fi
shift
. stack/bin/env.sh
need jq jq; need psql postgresql-client; need curl curl; use_java 17
SQL=tests/events; KEPT=schemas/tests/events
NAME=pinion_events                 # of the databases, the publication, a user; slots and connectors begin with it
FORMATS="json json-with-schema avro flat signs"
TABLES="orders items kinds large"
DIR=$(mktemp -d)

pg() { psql -X -q -v ON_ERROR_STOP=1 -h "$HOST" -p "$PG_PORT" -U postgres "$@"; }
prefix() { echo "pinion-events-$1"; }
topics() { "$BIN/kafka.sh" topics "$@"; }
# offsets: TOPIC:PARTITION:COUNT of all topics of ours
offsets() { kafka_tool org.apache.kafka.tools.GetOffsetShell --bootstrap-server "$BOOTSTRAP" --topic '(__debezium-heartbeat\.)?pinion-events-.*'; }

# until_true WHAT COMMAND...: for a minute
until_true() {
  local what=$1 i; shift
  for ((i = 0; i < 300; i++)); do "$@" && return; sleep 0.2; done
  die "waited a minute for $what"
}

remove_all() {   # everything of an earlier recording, or of this one
  local connector artifact api="http://$HOST:$REGISTRY_PORT/apis/registry/v2"
  for connector in $(curl -fsS "$CONNECT_URL/connectors" | jq -r '.[] | select(startswith("pinion-events-"))'); do
    "$BIN/connect.sh" reset "$connector" >/dev/null || true
  done
  until_true "the slots to be dropped" slots_are_gone
  pg -d postgres -c "DROP DATABASE IF EXISTS $NAME WITH (FORCE)" 2>/dev/null
  "$BIN/mariadb.sh" sql -e "DROP DATABASE IF EXISTS $NAME; DROP USER IF EXISTS $NAME@'127.0.0.1'"
  topics --delete --if-exists --topic '(__debezium-heartbeat\.|schema-history\.)?pinion-events-.*' >/dev/null 2>&1 || true
  # By Apicurio's own API: what Confluent's deletes is only hidden, and then in the way of the next recording.
  for artifact in $(curl -fsS "$api/search/artifacts?limit=500" | jq -r '.artifacts[].id | select(test("^(__debezium-heartbeat[.])?pinion-events-"))'); do
    curl -fsS -X DELETE "$api/groups/default/artifacts/$artifact"
  done
}
slots_are_gone() {
  local slots="FROM pg_replication_slots WHERE slot_name LIKE 'pinion\_events\_%'"
  pg -d postgres -tAc "SELECT pg_drop_replication_slot(slot_name) $slots AND NOT active" >/dev/null
  [ "$(pg -d postgres -tAc "SELECT count(*) $slots")" = 0 ]
}
finish() { remove_all || true; rm -rf "$DIR"; }
trap finish EXIT

make_database() {
  if [ "$1" = postgres ]; then
    pg -d postgres -c "CREATE DATABASE $NAME"
    pg -d $NAME -f $SQL/postgres.sql
  else
    "$BIN/mariadb.sh" sql -e "CREATE DATABASE $NAME; CREATE USER $NAME@'127.0.0.1'; GRANT SELECT, RELOAD, SHOW DATABASES, REPLICATION SLAVE,
      REPLICATION CLIENT, LOCK TABLES ON *.* TO $NAME@'127.0.0.1'"
    "$BIN/mariadb.sh" sql $NAME <$SQL/mariadb.sql
  fi
}
change_database() {
  if [ "$1" = postgres ]; then pg -d $NAME -o /dev/null -f $SQL/postgres-changes.sql
  else "$BIN/mariadb.sh" sql $NAME <$SQL/mariadb-changes.sql; fi
}

# settings DATABASE FORMAT NUMBER: the kit's, and what is this recording's own
settings() {
  local more=()
  case "$2" in avro|flat) more=("deploy/debezium/$2.json") ;; esac
  jq -s --arg database "$1" --arg format "$2" --arg number "$3" --arg prefix "$(prefix "$2")" --arg name $NAME --arg host "$HOST" \
    --arg pg "$PG_PORT" --arg mariadb "$MARIADB_PORT" --arg kafka "$BOOTSTRAP" --arg registry "http://$HOST:$REGISTRY_PORT/apis/registry/v2" '
    add + {"topic.prefix": $prefix, "database.hostname": $host, "snapshot.mode": "initial"}
    | if $database == "postgres" then . + {"database.port": $pg, "database.password": "dbz", "database.dbname": $name,
        "slot.name": ($name + "_" + $number), "publication.name": $name}
      else . + {"database.port": $mariadb, "database.user": $name, "database.password": "", "database.server.id": ("54" + $number + "9"),
        "database.include.list": $name, "snapshot.locking.mode": "none",
        "schema.history.internal.kafka.bootstrap.servers": $kafka, "schema.history.internal.kafka.topic": ("schema-history." + $prefix)} end
    | if $format == "json-with-schema" then . + {"key.converter.schemas.enable": "true", "value.converter.schemas.enable": "true"}
      elif $format == "avro" then with_entries(if .key | endswith("registry.url") then .value = $registry else . end)
      elif $format == "flat" and $database == "mariadb" then . + {"transforms.flat.add.fields": "op,table,db,source.ts_ms,gtid,file,pos"}
      elif $format == "signs" then . + {"heartbeat.interval.ms": "500", "provide.transaction.metadata": "true", "include.schema.changes": "true"}
        | if $database == "postgres" then . + {"message.prefix.exclude.list": "heartbeat"} else . end
      else . end' "deploy/debezium/$1.json" "${more[@]}"
}
all_follow() {
  if [ "$1" = postgres ]; then
    [ "$(pg -d postgres -tAc "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pinion\_events\_%' AND active")" = 5 ]
  else
    [ "$("$BIN/mariadb.sh" sql -Ne "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '$NAME' AND COMMAND LIKE 'Binlog Dump%'")" = 5 ]
  fi
}
all_are_done() {   # the last change has come in every format, and a heartbeat
  offsets >"$DIR/offsets"
  [ "$(grep -cE '\.done:0:1$' "$DIR/offsets")" = 5 ] && grep -qE 'heartbeat\.pinion-events-signs:0:[1-9]' "$DIR/offsets"
}

# read_topic TOPIC COUNT: KEY <tab> VALUE of each message; what is not printable ASCII is \xNN, no value is -
read_topic() {
  local bytes=org.apache.kafka.common.serialization.BytesDeserializer
  kafka_tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$BOOTSTRAP" --topic "$1" --from-beginning --max-messages "$2" \
    --timeout-ms 30000 --property print.key=true --property null.literal=- \
    --property key.deserializer=$bytes --property value.deserializer=$bytes 2>"$DIR/read.log" || { cat "$DIR/read.log" >&2; die "$1"; }
}
# as_json FORMAT BYTES: JSON as it is, to the byte; Avro in base64
as_json() {
  if [ "$2" = - ]; then printf null
  elif [ "$1" = avro ]; then printf '"%s"' "$(printf '%b' "$2" | base64 -w0)"
  else printf '%b' "$2"; fi
}
# keep FORMAT TOPIC COUNT: a line for each message
keep() {
  local key value
  read_topic "$2" "$3" >"$DIR/read"
  while IFS=$'\t' read -r key value; do
    printf '{"topic":"%s","key":%s,"value":%s}\n' "$2" "$(as_json "$1" "$key")" "$(as_json "$1" "$value")"
    [ "$1" != avro ] || for value in "$key" "$value"; do schema_number "$value" >>"$DIR/numbers"; done
  done <"$DIR/read"
}
schema_number() {
  local bytes
  [ "$1" != - ] || return 0
  read -r -a bytes < <(printf '%b' "$1" | head -c 5 | od -An -tu1)
  echo $((bytes[1] << 24 | bytes[2] << 16 | bytes[3] << 8 | bytes[4]))
}
keep_schemas() {
  local number
  for number in $(sort -nu "$DIR/numbers"); do
    curl -fsS "$REGISTRY_URL/schemas/ids/$number" | jq -c --argjson id "$number" '{$id, schema: (.schema | fromjson)}'
  done
}

# keep_all DATABASE FORMAT
keep_all() {
  local table topic count place=public names=()
  [ "$1" = postgres ] || place=$NAME
  if [ "$2" = signs ]; then
    names=("__debezium-heartbeat.$(prefix signs)" "$(prefix signs).transaction" "$(prefix signs).message" "$(prefix signs)")
  else
    for table in $TABLES; do names+=("$(prefix "$2").$place.$table"); done
  fi
  for topic in "${names[@]}"; do
    count=$(sed -n "s/^${topic//./\\.}:0://p" "$DIR/offsets")
    [ -n "$count" ] || continue
    case "$topic" in
      # Of signs of life there are as many as were waited for, and of tables that were made one is as good as five.
      *heartbeat*|*-signs) keep "$2" "$topic" "$count" | tail -n 2 ;;
      # A schema is many times its event.
      *-json-with-schema.*.orders) keep "$2" "$topic" 7 ;;
      *) keep "$2" "$topic" "$count" ;;
    esac
  done
}

record() {   # record DATABASE
  local format number=0
  say "$1: a database, and five connectors"
  remove_all
  : >"$DIR/numbers"
  make_database "$1"
  for format in $FORMATS; do
    number=$((number + 1))
    settings "$1" "$format" "$number" | "$BIN/connect.sh" put "$(prefix "$format")" -
  done
  until_true "all connectors to follow" all_follow "$1"
  change_database "$1"
  until_true "all events to be there" all_are_done
  say "$1: reading"
  for format in $FORMATS; do keep_all "$1" "$format" >"$DIR/$1-$format.jsonl"; done
  keep_schemas >"$DIR/$1-avro-schemas.jsonl"
  jq -e . "$DIR/$1"-*.jsonl >/dev/null
  mkdir -p $KEPT
  mv "$DIR/$1"-*.jsonl $KEPT/
  wc -lc $KEPT/"$1"-*.jsonl
}

for database in "$@"; do record "$database"; done
