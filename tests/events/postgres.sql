-- The tables of the recording on PostgreSQL, with what a snapshot finds in them.
CREATE EXTENSION hstore;
CREATE TYPE mood AS ENUM ('sad', 'happy');

-- Its old rows are not told: replica identity is the default.
CREATE TABLE orders (id bigint PRIMARY KEY, status text NOT NULL, note text, total numeric(10,2));
-- These are.
CREATE TABLE items (id bigint PRIMARY KEY, order_id bigint NOT NULL, sku text);
ALTER TABLE items REPLICA IDENTITY FULL;

CREATE TABLE kinds (id bigint PRIMARY KEY, i2 smallint, i4 int, i8 bigint, b boolean, f4 real, f8 double precision, n numeric,
  n2 numeric(10,2), t text, w text DEFAULT 'word', c char(5), by bytea, d date, tm time, tmz timetz, ts timestamp, ts3 timestamp(3),
  tz timestamptz, iv interval, j json, jb jsonb, u uuid, e mood, ai int[], at text[], an numeric(10,2)[], p point, bits bit(10));

-- Every value but id and seen is stored outside of the row, and so is not told when it stays as it was.
CREATE TABLE large (id bigint PRIMARY KEY, seen int, filler text, t text, by bytea, jb jsonb, x xml, n numeric, bits varbit, at text[],
  ai int[], ab bigint[], au uuid[], af double precision[], an numeric(10,2)[], ad date[], az timestamptz[], aj jsonb[], ao boolean[],
  h hstore) WITH (toast_tuple_target = 128);
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT attname FROM pg_attribute WHERE attrelid = 'large'::regclass AND attnum > 0 AND attstorage <> 'p' LOOP
    EXECUTE format('ALTER TABLE large ALTER %I SET STORAGE EXTERNAL', name);
  END LOOP;
END $$;

-- Its only row is the last change.
CREATE TABLE done (id bigint PRIMARY KEY);

INSERT INTO orders VALUES (1, 'placed', 'from before', 12.50);
INSERT INTO items VALUES (1, 1, 'apple');
INSERT INTO kinds VALUES (1, 2, 3, 4, true, 1.5, 2.5, 123.4567890123456789, 12345.60, 'text', 'other', 'c', '\x00ff10', '2024-02-29',
  '12:34:56.789012', '12:34:56.789+02', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789012+02',
  '1 year 2 mons 3 days 04:05:06.789', E'{"a":\n[1, null]}', '{"b": {"c": 1.50}}', '6f1c1f5e-0000-4000-8000-000000000001', 'happy',
  '{1,2,null}', '{a,"b c",null}', '{1.50,2.25}', '(1.5,2.5)', B'1010101011');

CREATE PUBLICATION pinion_events FOR ALL TABLES;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO debezium;
