-- What is recorded on MariaDB, in this order.
SET NAMES utf8mb4;
SET time_zone = '+00:00';
INSERT INTO orders VALUES (2, 'placed', 'über "quotes" \\ 😀 𝄞\n\r\n\t end', 0.01);
UPDATE orders SET status = 'paid' WHERE id = 1;
-- Several rows in one transaction, one of them twice.
BEGIN;
INSERT INTO orders VALUES (3, 'placed', NULL, NULL);
INSERT INTO items VALUES (11, 3, 'pear'), (12, 3, NULL);
UPDATE orders SET total = 99999999.99 WHERE id = 3;
COMMIT;
-- Of what is taken back, nothing is told.
BEGIN;
UPDATE orders SET status = 'never';
ROLLBACK;
-- A child moves to another parent.
UPDATE items SET order_id = 2 WHERE id = 1;
-- A key changes.
UPDATE orders SET id = 20 WHERE id = 2;
DELETE FROM items WHERE id = 11;
DELETE FROM orders WHERE id = 3;
INSERT INTO orders VALUES (9223372036854775807, '', '', -99999999.99), (-9223372036854775808, 'last', NULL, 0);
ALTER TABLE items COMMENT = 'altered';
TRUNCATE items;

INSERT INTO kinds VALUES (2, 127, false, 4294967295, 18446744073709551615, 3.4e38, 1.7976931348623157e308, 99999999.99,
  99999999999999999999.9999999999, '😀 𝄞 ä\n\r\t"\\', NULL, 'ä', '', x'ffffffff', '9999-12-31', '838:59:59', '9999-12-31 23:59:59.999999',
  '9999-12-31 23:59:59.999', '2038-01-19 03:14:07.999999', 2155, '"😀"', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'sad', '', point(-1e300, 0), b'0');
INSERT INTO kinds VALUES (3, -128, false, 0, 0, -3.4e38, -1.7976931348623157e308, -99999999.99, -99999999999999999999.9999999999, '', '', '',
  NULL, x'', '1000-01-01', '-838:59:59', '1000-01-01 00:00:00', '1969-12-31 23:59:59.999', '1970-01-01 00:00:01', 1901, 'null',
  '00000000-0000-0000-0000-000000000000', 'happy', 'a,b,c', point(0, 0), b'1111111111');
INSERT INTO kinds (id, w) VALUES (4, NULL);

INSERT INTO done VALUES (1);
