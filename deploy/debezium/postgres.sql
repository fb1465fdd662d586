-- What Debezium needs in a PostgreSQL database, run there once by a superuser:
--     psql -v publication=pinion -v password=secret -d shop -f postgres.sql
-- The server needs wal_level = logical. List the tables that the jobs' [[watch]] rules name.
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'debezium') AS missing \gset
\if :missing
CREATE ROLE debezium LOGIN REPLICATION;
\endif
ALTER ROLE debezium PASSWORD :'password';
GRANT USAGE ON SCHEMA public TO debezium;
GRANT SELECT ON orders, order_items, deliveries, customers, merchants TO debezium;
-- A row in it asks the connector to read tables anew, which marks there what it reads meanwhile: see README.md.
CREATE TABLE IF NOT EXISTS debezium_signal (id varchar(64) PRIMARY KEY, type varchar(32) NOT NULL, data varchar(2048));
GRANT SELECT, INSERT, DELETE ON debezium_signal TO debezium;
CREATE PUBLICATION :publication FOR TABLE orders, order_items, deliveries, customers, merchants, debezium_signal;
-- A child that can move to another parent, and any table that is watched by a column outside its primary key: `pinion check` says which.
ALTER TABLE order_items REPLICA IDENTITY FULL;
