-- What Debezium needs on MariaDB or MySQL, run once by an administrator; the password is an example:
--     mariadb < mysql.sql
-- The server needs log_bin, binlog_format = ROW, binlog_row_image = FULL, and on MySQL gtid_mode = ON and enforce_gtid_consistency = ON.
CREATE USER IF NOT EXISTS debezium IDENTIFIED BY 'debezium';
-- The first look at the tables' columns takes a short read lock. REPLICATION CLIENT is what MariaDB 10.5 and newer call BINLOG MONITOR.
GRANT RELOAD, REPLICATION SLAVE, REPLICATION CLIENT, SHOW DATABASES, LOCK TABLES ON *.* TO debezium;
GRANT SELECT ON shop.* TO debezium;
-- A row in it asks the connector to read tables anew, which marks there what it reads meanwhile: see README.md.
CREATE TABLE IF NOT EXISTS shop.debezium_signal (id varchar(64) PRIMARY KEY, type varchar(32) NOT NULL, data varchar(2048));
GRANT INSERT, DELETE ON shop.debezium_signal TO debezium;
