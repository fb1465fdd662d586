#!/usr/bin/env bash
# pg.sh start|stop|restart|status|wipe - a private PostgreSQL primary with logical decoding, and a streaming replica of it.
#   pg.sh psql|replica-psql [ARGS...]          as the superuser, in the database `shop`
#   pg.sh replica start|stop|kill|promote|wipe the replica alone; a second one: another PG_REPLICA and PG_REPLICA_PORT
#   pg.sh primary start|stop|kill|save|restore|wipe the primary alone; another one, a database system of its own: another PGDIR and PG_PORT.
#                                              save keeps a copy of its disk, restore goes back to that
# Roles: postgres (superuser, no password, loopback only), pinion / pinion (what a worker has: connect and SELECT, password
# checked by scram on both servers), debezium / dbz (LOGIN REPLICATION). Publication `dbz` for all tables of `shop`.
# Replica lag on purpose: replica-psql -c 'select pg_wal_replay_pause()' ... pg_wal_replay_resume().
set -euo pipefail
. "$(dirname "$0")/env.sh"
PGBIN="${PGBIN:-/usr/lib/postgresql/15/bin}"
PGDIR="${PGDIR:-$LAB/pg}"; PGD="$PGDIR/data"; PG_REPLICA="${PG_REPLICA:-$PGDIR/replica}"

# The server refuses to run as root.
as_pg() { if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- env LC_ALL=C.UTF-8 "$@"); else "$@"; fi; }
sql() { psql -X -v ON_ERROR_STOP=1 -h "$HOST" -p "$PG_PORT" -U postgres "$@"; }
replica_sql() { psql -X -v ON_ERROR_STOP=1 -h "$HOST" -p "$PG_REPLICA_PORT" -U postgres "$@"; }
up() { [ -f "$1/postmaster.pid" ] && as_pg "$PGBIN/pg_ctl" -D "$1" status >/dev/null; }
ctl() { local dir=$1; shift; as_pg "$PGBIN/pg_ctl" -D "$dir" -w -t 60 "$@" >/dev/null; }

create_primary() {
  if [ "$(id -u)" = 0 ]; then install -d -o postgres -g postgres -m 700 "$PGDIR" "$PGD"; else install -d -m 700 "$PGDIR" "$PGD"; fi
  as_pg "$PGBIN/initdb" -D "$PGD" -U postgres -E UTF8 --locale=C.UTF-8 -A trust --no-sync >"$LOGS/pg-initdb.log"
  as_pg tee "$PGD/pg_hba.conf" >/dev/null <<CONF
# TYPE  DATABASE     USER      ADDRESS        METHOD
local   all          postgres                 trust
host    all          postgres  127.0.0.1/32   trust
host    replication  postgres  127.0.0.1/32   trust
host    all          all       127.0.0.1/32   scram-sha-256
host    replication  all       127.0.0.1/32   scram-sha-256
CONF
  as_pg tee -a "$PGD/postgresql.conf" >/dev/null <<CONF
listen_addresses = '$HOST'
port = $PG_PORT
unix_socket_directories = '$PGDIR'
timezone = 'UTC'
password_encryption = 'scram-sha-256'
max_connections = 200
wal_level = logical              # what Debezium needs
max_wal_senders = 20
max_replication_slots = 20
max_slot_wal_keep_size = 512MB   # an abandoned slot must not fill the disk
wal_keep_size = 512MB            # a replica that was stopped for a test finds its way back
hot_standby_feedback = on        # read on the replica, whose configuration is a copy of this
random_page_cost = 1.1           # everything is in memory or on an SSD: 1000 ids are 1000 look-ups, not a scan
shared_buffers = 128MB
max_wal_size = 2GB
fsync = off                      # test data only
CONF
}

# What may be said again and again: roles, rights, publication.
create_shop() {
  [ "$(sql -d postgres -qtAc "select count(*) from pg_database where datname = 'shop'")" = 1 ] || sql -d postgres -qc 'create database shop'
  sql -d shop -q <<'SQL'
do $$ begin
  if not exists (select from pg_roles where rolname = 'pinion') then
    create role pinion login password 'pinion';
  end if;
  if not exists (select from pg_roles where rolname = 'debezium') then
    create role debezium login replication password 'dbz';
  end if;
  -- Only a superuser may create FOR ALL TABLES; the connector then runs with
  -- publication.autocreate.mode=disabled and needs no more rights.
  if not exists (select from pg_publication where pubname = 'dbz') then
    create publication dbz for all tables;
  end if;
end $$;
revoke all on database shop from public;
grant connect on database shop to pinion, debezium;
grant usage on schema public to pinion, debezium;
grant select on all tables in schema public to pinion, debezium;
alter default privileges in schema public grant select on tables to pinion, debezium;
SQL
}

start_primary() {
  up "$PGD" && return
  free_port "$PG_PORT"
  [ -f "$PGD/PG_VERSION" ] || create_primary
  ctl "$PGD" -l "$PGDIR/server.log" start || { tail -5 "$PGDIR/server.log" >&2; die "pg: the primary did not start"; }
  create_shop
}

start_replica() {
  up "$PG_REPLICA" && return
  free_port "$PG_REPLICA_PORT"
  if [ ! -f "$PG_REPLICA/PG_VERSION" ]; then
    as_pg "$PGBIN/pg_basebackup" -d "host=$HOST port=$PG_PORT user=postgres application_name=$(basename "$PG_REPLICA")" \
      -D "$PG_REPLICA" -R -X stream -c fast --no-sync
    echo "port = $PG_REPLICA_PORT" | as_pg tee -a "$PG_REPLICA/postgresql.auto.conf" >/dev/null
  fi
  # The log's name must not be that of a file inside a data folder that is wiped and copied anew.
  ctl "$PG_REPLICA" -l "$PG_REPLICA.log" start || { tail -5 "$PG_REPLICA.log" >&2; die "pg: the replica did not start"; }
}

stop_primary() { if up "$PGD"; then ctl "$PGD" -m "${1:-fast}" stop; fi; }
stop_replica() { if up "$PG_REPLICA"; then ctl "$PG_REPLICA" -m "${1:-fast}" stop; fi; }

start() {
  need "$PGBIN/postgres" postgresql-15
  need psql postgresql-client
  local t0; t0=$(now_ms)
  if up "$PGD" && up "$PG_REPLICA"; then say "pg: already up on $HOST:$PG_PORT, replica on $PG_REPLICA_PORT"; return; fi
  start_primary
  start_replica
  say "pg: ready on $HOST:$PG_PORT, replica on $PG_REPLICA_PORT, after $(( $(now_ms) - t0 )) ms"
}
stop() {
  stop_replica
  if up "$PGD"; then stop_primary; say "pg: stopped"; else say "pg: not running"; fi
}
# What a power failure looks like: no checkpoint, no farewell to clients.
kill_server() {   # kill_server FOLDER
  up "$1" || die "pg: no server runs in $1"
  local pid i; pid=$(head -1 "$1/postmaster.pid")
  as_pg "$PGBIN/pg_ctl" kill QUIT "$pid"
  # Until it is gone: a start would find it up and do nothing.
  for ((i = 0; i < 200; i++)); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.05; done
  die "pg: the server $pid does not end"
}
primary() {
  case "${1:-}" in
    start) start_primary ;;
    stop) stop_primary ;;
    kill) kill_server "$PGD" ;;
    save) stop_primary; rm -rf "$PGD.saved"; cp -a "$PGD" "$PGD.saved"; start_primary ;;
    restore) stop_primary; rm -rf "$PGD"; mv "$PGD.saved" "$PGD"; start_primary ;;
    wipe) stop_primary immediate; rm -rf "$PGDIR" ;;
    *) sed -n '2,9p' "$0"; exit 2 ;;
  esac
}
one_status() {   # one_status NAME FOLDER PORT
  if up "$2"; then say "$1: up, pid $(head -1 "$2/postmaster.pid"), port $3"; else say "$1: down"; return 1; fi
}
replica() {
  case "${1:-}" in
    start) start_replica ;;
    stop) stop_replica ;;
    kill) kill_server "$PG_REPLICA" ;;
    promote) ctl "$PG_REPLICA" promote ;;
    wipe) stop_replica immediate; rm -rf "$PG_REPLICA" "$PG_REPLICA.log" ;;
    *) sed -n '2,9p' "$0"; exit 2 ;;
  esac
}
case "${1:-}" in
  start) start ;;
  stop) stop ;;
  restart) stop; start ;;
  status) rc=0; one_status pg "$PGD" "$PG_PORT" || rc=1; one_status pg-replica "$PG_REPLICA" "$PG_REPLICA_PORT" || rc=1; exit $rc ;;
  wipe) stop; rm -rf "$PGDIR"; say "pg: wiped" ;;
  psql) shift; sql -d shop "$@" ;;
  replica-psql) shift; replica_sql -d shop "$@" ;;
  replica) shift; replica "$@" ;;
  primary) shift; primary "$@" ;;
  *) sed -n '2,9p' "$0"; exit 2 ;;
esac
