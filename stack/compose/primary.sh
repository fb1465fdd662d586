#!/usr/bin/env bash
# Run once by the PostgreSQL image, on an empty volume: the roles that stack/bin/pg.sh creates, one for the replica, and the example shop.
set -euo pipefail
echo "host replication all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
psql -v ON_ERROR_STOP=1 -U postgres -d shop <<'SQL'
create role replica login replication password 'replica';
create role pinion login password 'pinion';
create role debezium login replication password 'dbz';
create publication dbz for all tables;
revoke all on database shop from public;
grant connect on database shop to pinion, debezium;
grant usage on schema public to pinion, debezium;
alter default privileges in schema public grant select on tables to pinion, debezium;
SQL
psql -q -U postgres -d shop -v orders="$PINION_ORDERS" -f /shop/database.sql
