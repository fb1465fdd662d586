#!/usr/bin/env bash
# mariadb.sh start|stop|restart|status|wipe|sql [ARGS...]|replica-sql [ARGS...] - a private MariaDB primary with a row binlog, and a
# replica of it by GTID. Database `shop`; user `root` over the socket and from loopback (no password), users `pinion` / `pinion`
# (SELECT on `shop`, what a worker has) and `debezium` / `dbz` over loopback TCP.
# Replica lag on purpose: replica-sql -e 'stop replica sql_thread' … 'start replica sql_thread'.
# MASTER_GTID_WAIT must be a statement of its own: in one SELECT with the rows, the rows are read before the wait is over.
set -euo pipefail
. "$(dirname "$0")/env.sh"
# Another NODE with other ports is a pair of its own. MARIADB_LINES are more lines for both servers' my.cnf.
NODE="${NODE:-mariadb}"; MDIR="$DATA/$NODE"

client() { local dir=$1; shift; mariadb --no-defaults -S "$MDIR/$dir/mysqld.sock" -u root "$@"; }
ready() { mariadb-admin --no-defaults -S "$MDIR/$1/mysqld.sock" -u root ping; }
replicating() { [ "$(client replica -e 'show replica status\G' | grep -cE 'Slave_(IO|SQL)_Running: Yes')" = 2 ]; }

start_one() {   # start_one primary|replica PORT SERVER_ID [MORE LINES]
  local role=$1 port=$2 dir="$MDIR/$1"
  already_up "$NODE-$role" ready "$role" && { say "$NODE-$role: already up on $HOST:$port"; return; }
  free_port "$port"
  install -d -o mysql -g mysql -m 755 "$MDIR" "$dir"
  cat >"$dir/my.cnf" <<CONF
[mariadbd]
user=mysql
datadir=$dir/data
socket=$dir/mysqld.sock
pid-file=$dir/mysqld.pid
port=$port
bind-address=$HOST
skip-name-resolve
server-id=$3
gtid-strict-mode=ON
log-bin=binlog
log-slave-updates=ON
# What Debezium needs: whole rows.
binlog-format=ROW
binlog-row-image=FULL
binlog-row-metadata=FULL
binlog-annotate-row-events=ON
expire-logs-days=2
innodb-buffer-pool-size=64M
innodb-flush-log-at-trx-commit=0
${4:-}
${MARIADB_LINES:-}
CONF
  if [ ! -d "$dir/data/mysql" ]; then
    mariadb-install-db --defaults-file="$dir/my.cnf" --user=mysql --skip-test-db --auth-root-authentication-method=socket \
      >"$LOGS/$NODE-$role-install.log" 2>&1 || { tail "$LOGS/$NODE-$role-install.log" >&2; die "mariadb-install-db failed"; }
  fi
  launch "$NODE-$role" mariadbd --defaults-file="$dir/my.cnf"
  wait_ready "$NODE-$role" 60 ready "$role"
}
start() {
  need mariadbd mariadb-server
  local t0; t0=$(now_ms)
  start_one primary "$MARIADB_PORT" 5306
  client primary <<'SQL'
create database if not exists shop;
create user if not exists root@'127.0.0.1';
grant all on *.* to root@'127.0.0.1' with grant option;
create user if not exists pinion@'127.0.0.1' identified by 'pinion';
grant select on shop.* to pinion@'127.0.0.1';
create user if not exists replica@'127.0.0.1' identified by 'replica';
grant replication slave on *.* to replica@'127.0.0.1';
create user if not exists debezium@'127.0.0.1' identified by 'dbz';
-- BINLOG MONITOR is MariaDB's name for SHOW MASTER STATUS / SHOW BINARY LOGS.
grant select, reload, show databases, replication slave, binlog monitor, lock tables on *.* to debezium@'127.0.0.1';
SQL
  start_one replica "$MARIADB_REPLICA_PORT" 5307 read-only=ON
  replicating || client replica -e "stop replica; change master to master_host='$HOST', master_port=$MARIADB_PORT, master_user='replica', master_password='replica', master_use_gtid=slave_pos, master_connect_retry=1; start replica"
  wait_ready "$NODE-replica" 30 replicating
  say "$NODE: ready on $HOST:$MARIADB_PORT, replica on $MARIADB_REPLICA_PORT, after $(( $(now_ms) - t0 )) ms"
}
stop() { stop_pid "$NODE-replica"; stop_pid "$NODE-primary"; }
case "${1:-}" in
  start) start ;;
  stop) stop ;;
  restart) stop; start ;;
  status) status "$NODE-primary"; status "$NODE-replica" ;;
  wipe) stop; rm -rf "$MDIR"; say "$NODE: wiped" ;;
  sql) shift; client primary "$@" ;;
  replica-sql) shift; client replica "$@" ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac
