-- The tables of the recording on MariaDB, with what a snapshot finds in them.
SET NAMES utf8mb4;
SET time_zone = '+00:00';
CREATE TABLE orders (id bigint PRIMARY KEY, status varchar(20) NOT NULL, note text, total decimal(10,2)) CHARACTER SET utf8mb4;
CREATE TABLE items (id bigint PRIMARY KEY, order_id bigint NOT NULL, sku varchar(20));
CREATE TABLE kinds (id bigint PRIMARY KEY, i1 tinyint, b boolean, u4 int unsigned, u8 bigint unsigned, f4 float, f8 double, n2 decimal(10,2),
  n30 decimal(30,10), t text, w varchar(20) DEFAULT 'word', c char(5), by_ blob, bi binary(4), d date, tm time(6), dt datetime(6), dt3 datetime(3),
  ts timestamp(6) NULL, y year, j json, u uuid, e enum('sad', 'happy'), s set('a', 'b', 'c'), p point, bits bit(10)) CHARACTER SET utf8mb4;

-- Its only row is the last change.
CREATE TABLE done (id bigint PRIMARY KEY);

INSERT INTO orders VALUES (1, 'placed', 'from before', 12.50);
INSERT INTO items VALUES (1, 1, 'apple');
INSERT INTO kinds VALUES (1, 2, true, 3, 4, 1.5, 2.5, 12345.60, 123.4567890123, 'text', 'other', 'c', x'00ff10', x'00ff', '2024-02-29',
  '12:34:56.789012', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56.789', '2024-02-29 10:34:56.789012', 2024, '{"a":\n[1, null]}',
  '6f1c1f5e-0000-4000-8000-000000000001', 'happy', 'a,c', point(1.5, 2.5), b'1010101011');
