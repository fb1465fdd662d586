-- What is recorded on PostgreSQL, in this order.
INSERT INTO orders VALUES (2, 'placed', E'über "quotes" \\ \U0001F600 \U0001D11E\n\r\n\t\u2028\x01 end', 0.01);
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
-- A key changes, in either kind of table.
UPDATE orders SET id = 20 WHERE id = 2;
UPDATE items SET id = 120 WHERE id = 12;
DELETE FROM items WHERE id = 11;
DELETE FROM orders WHERE id = 3;
INSERT INTO orders VALUES (9223372036854775807, '', '', -99999999.99), (-9223372036854775808, 'last', NULL, 0);
SELECT pg_logical_emit_message(true, 'pinion', 'a message');
TRUNCATE items;

INSERT INTO kinds VALUES (2, 32767, 2147483647, 9223372036854775807, false, 3.4028235e38, 1.7976931348623157e308,
  123456789012345678901234567890.0000000001, 99999999.99, E'\U0001F600 \U0001D11E ä\n\r\t"\\\u2028\x01', NULL, 'ä', '\x', '9999-12-31', '24:00',
  '23:59:59.999999-15:59', '9999-12-31 23:59:59.999999', '9999-12-31 23:59:59.999', '9999-12-31 23:59:59.999999+00',
  '100 years -3 mons 4 days -00:00:00.25', '"\ud83d\ude00"', '9007199254740993', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'sad', '{}', '{}',
  '{-0.01}', '(-1e300,0)', B'0000000000');
INSERT INTO kinds VALUES (3, -32768, -2147483648, -9223372036854775808, false, 'NaN', '-Infinity', 'NaN', -99999999.99, '', '', '', NULL,
  '-infinity', '00:00', '00:00:00+15:59', 'infinity', '-infinity', 'infinity', '0', 'null', '{}', '00000000-0000-0000-0000-000000000000', 'sad',
  '{-2147483648,2147483647}', '{"",NULL}', '{}', '(0,0)', B'1111111111');
INSERT INTO kinds (id, w) VALUES (4, NULL);

INSERT INTO large VALUES (1, 0, repeat('filler ', 290), repeat('text ', 9), decode(repeat('00ff', 20), 'hex'),
  '{"key": "a value that is long enough to be moved"}', '<x>a value that is long enough to be moved</x>', repeat('1234567890', 9)::numeric,
  repeat('1', 400)::varbit, '{"an element that is long enough to be moved"}', '{1,2,3,4,5,6}', '{1,2,3}',
  '{6f1c1f5e-0000-4000-8000-000000000001,6f1c1f5e-0000-4000-8000-000000000002}', '{1.5,2.5,3.5}', '{1.50,2.25,3.75}',
  '{2024-01-02,2024-01-03,2024-01-04,2024-01-05,2024-01-06}', '{"2024-02-29 12:34:56+00","2024-02-29 12:34:57+00"}',
  '{"{\"key\":\"a value that is long enough to be moved\"}"}', array_fill(true, ARRAY[30]), 'key=>"a value that is long enough to be moved"');
UPDATE large SET seen = 1;
ALTER TABLE large REPLICA IDENTITY FULL;
UPDATE large SET seen = 2;

INSERT INTO done VALUES (1);
