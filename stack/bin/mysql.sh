#!/usr/bin/env bash
# mysql.sh start|stop|restart|status|wipe|sql [ARGS...]|replica-sql [ARGS...] - a private MySQL primary with GTIDs and a row binlog, and a
# replica of it. The only MySQL on Maven Central is 8.0.12, which is old; the client is MariaDB's. Database `shop`; users `root` (no password),
# `pinion` / `pinion` (SELECT on `shop`, what a worker has) and `debezium` / `dbz`, all from loopback.
# Replica lag on purpose: replica-sql -e 'stop slave sql_thread' … 'start slave sql_thread'.
set -euo pipefail
. "$(dirname "$0")/env.sh"
HOME_OF_MYSQL="$LAB/mysql-$MYSQL_VERSION"
# Another NODE with other ports is a pair of its own.
NODE="${NODE:-mysql}"; MDIR="$DATA/$NODE"

client() { local dir=$1; shift; mariadb --no-defaults -S "$MDIR/$dir/mysqld.sock" -u root "$@"; }
ready() { client "$1" -e 'select 1'; }
replicating() { [ "$(client replica -e 'show slave status\G' | grep -cE 'Slave_(IO|SQL)_Running: Yes')" = 2 ]; }

start_one() {   # start_one primary|replica PORT SERVER_ID [MORE LINES]
  local role=$1 port=$2 dir="$MDIR/$1"
  already_up "$NODE-$role" ready "$role" && { say "$NODE-$role: already up on $HOST:$port"; return; }
  free_port "$port"
  install -d -o mysql -g mysql -m 755 "$MDIR" "$dir"
  cat >"$dir/my.cnf" <<CONF
[mysqld]
user=mysql
basedir=$HOME_OF_MYSQL
datadir=$dir/data
socket=$dir/mysqld.sock
pid-file=$dir/mysqld.pid
port=$port
bind-address=$HOST
mysqlx=OFF
skip-ssl
skip-name-resolve
default-authentication-plugin=mysql_native_password
secure-file-priv=
server-id=$3
gtid-mode=ON
enforce-gtid-consistency=ON
log-bin=binlog
log-slave-updates=ON
log-bin-trust-function-creators=ON
binlog-format=ROW
binlog-row-image=FULL
innodb-buffer-pool-size=64M
innodb-flush-log-at-trx-commit=0
sync-binlog=0
${4:-}
CONF
  if [ ! -d "$dir/data/mysql" ]; then
    "$HOME_OF_MYSQL/bin/mysqld" --defaults-file="$dir/my.cnf" --initialize-insecure >"$LOGS/$NODE-$role-install.log" 2>&1 \
      || { tail "$LOGS/$NODE-$role-install.log" >&2; die "mysqld --initialize failed"; }
  fi
  launch "$NODE-$role" "$HOME_OF_MYSQL/bin/mysqld" --defaults-file="$dir/my.cnf"
  wait_ready "$NODE-$role" 60 ready "$role"
}
start() {
  need mariadb mariadb-client
  getent passwd mysql >/dev/null || useradd --system --no-create-home mysql
  "$BIN/fetch.sh" mysql
  local t0; t0=$(now_ms)
  start_one primary "$MYSQL_PORT" 5308
  client primary <<'SQL'
create database if not exists shop;
create user if not exists root@'127.0.0.1';
grant all on *.* to root@'127.0.0.1' with grant option;
create user if not exists pinion@'127.0.0.1' identified by 'pinion';
grant select on shop.* to pinion@'127.0.0.1';
create user if not exists replica@'127.0.0.1' identified by 'replica';
grant replication slave on *.* to replica@'127.0.0.1';
create user if not exists debezium@'127.0.0.1' identified by 'dbz';
grant select, reload, show databases, replication slave, replication client, lock tables on *.* to debezium@'127.0.0.1';
SQL
  start_one replica "$MYSQL_REPLICA_PORT" 5309 read-only=ON
  replicating || client replica -e "stop slave; change master to master_host='$HOST', master_port=$MYSQL_PORT, master_user='replica', master_password='replica', master_auto_position=1, master_connect_retry=1; start slave"
  wait_ready "$NODE-replica" 30 replicating
  say "$NODE: ready on $HOST:$MYSQL_PORT, replica on $MYSQL_REPLICA_PORT, after $(( $(now_ms) - t0 )) ms"
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
  *) sed -n '2,5p' "$0"; exit 2 ;;
esac
