-- The example shop for MariaDB and MySQL: creates the five tables in the present database (dropping what was there) and fills them.
--
--     (echo 'SET @orders = 20000;'; cat database.sql) | mariadb shop
--
-- @orders is the number of orders (20000 when not given, 1000000 at the most); there are a tenth as many customers, but at least 1000, and
-- 500 merchants. Every value is computed from its row's id, so the same size gives the same rows on every server: CRC32(CONCAT(id, ':7')) % 10
-- is a number from 0 to 9 that depends on the id alone.
SET @orders = coalesce(@orders, 20000), time_zone = '+00:00';

DROP TABLE IF EXISTS deliveries, order_items, orders, merchants, customers;

CREATE TABLE customers (
    id         bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name       varchar(200) NOT NULL CHECK (name <> ''),
    email      varchar(200) NOT NULL CHECK (email LIKE '%@%'),
    city       varchar(100) NOT NULL,
    country    char(2) NOT NULL,
    created_at timestamp(6) NOT NULL DEFAULT current_timestamp(6)
) CHARACTER SET utf8mb4;
CREATE TABLE merchants (
    id       bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name     varchar(200) NOT NULL CHECK (name <> ''),
    category varchar(100) NOT NULL,
    city     varchar(100) NOT NULL
) CHARACTER SET utf8mb4;
CREATE TABLE orders (
    id          bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    customer_id bigint NOT NULL,
    merchant_id bigint NOT NULL,
    status      enum('placed', 'accepted', 'dispatched', 'delivered', 'cancelled') NOT NULL DEFAULT 'placed',
    total       decimal(12, 2) NOT NULL CHECK (total >= 0),
    currency    char(3) NOT NULL DEFAULT 'EUR',
    placed_at   timestamp(6) NOT NULL DEFAULT current_timestamp(6),
    updated_at  timestamp(6) NOT NULL DEFAULT current_timestamp(6)
) CHARACTER SET utf8mb4;
CREATE TABLE order_items (
    id         bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    order_id   bigint NOT NULL,
    sku        varchar(50) NOT NULL,
    title      varchar(200) NOT NULL,
    quantity   int NOT NULL CHECK (quantity > 0),
    unit_price decimal(12, 2) NOT NULL CHECK (unit_price >= 0)
) CHARACTER SET utf8mb4;
CREATE TABLE deliveries (
    order_id      bigint NOT NULL PRIMARY KEY,
    rider         varchar(100) NOT NULL,
    dispatched_at timestamp(6) NOT NULL DEFAULT current_timestamp(6),
    delivered_at  timestamp(6) NULL,
    distance_m    int NOT NULL CHECK (distance_m >= 0)
) CHARACTER SET utf8mb4;

-- The numbers from 1 to a million. A temporary table can't be named twice in a statement, so the digits are an ordinary one.
DROP TABLE IF EXISTS shop_digits;
CREATE TABLE shop_digits (d int NOT NULL PRIMARY KEY);
INSERT INTO shop_digits VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9);
CREATE TEMPORARY TABLE shop_numbers (id bigint NOT NULL PRIMARY KEY);
INSERT INTO shop_numbers
SELECT id FROM (
    SELECT 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d + 100000 * g.d AS id
    FROM shop_digits a, shop_digits b, shop_digits c, shop_digits e, shop_digits f, shop_digits g
    WHERE 10000 * f.d + 100000 * g.d < greatest(1000, @orders)
) numbers WHERE id <= greatest(1000, @orders);

INSERT INTO customers (id, name, email, city, country, created_at)
SELECT id,
    concat(
        elt(1 + crc32(concat(id, ':10')) % 10, 'Anna', 'Bruno', 'Chiara', 'Dario', 'Elena', 'Fabio', 'Giulia', 'Hugo', 'Irene', 'Jonas'), ' ',
        elt(1 + crc32(concat(id, ':11')) % 10, 'Rossi', 'Bianchi', 'Moretti', 'Schmidt', 'Dubois', 'Novak', 'Garcia', 'Silva', 'Jensen', 'Kowalski')),
    concat('customer', id, '@example.org'),
    elt(1 + crc32(concat(id, ':1')) % 10, 'Milano', 'Roma', 'Torino', 'Berlin', 'Hamburg', 'Paris', 'Lyon', 'Praha', 'Madrid', 'Lisboa'),
    elt(1 + crc32(concat(id, ':1')) % 10, 'IT', 'IT', 'IT', 'DE', 'DE', 'FR', 'FR', 'CZ', 'ES', 'PT'),
    timestamp('2020-01-01 00:00:00') + INTERVAL crc32(concat(id, ':12')) % 100000000 SECOND
FROM shop_numbers WHERE id <= greatest(1000, @orders / 10);

INSERT INTO merchants (id, name, category, city)
SELECT id, concat('Merchant number ', id),
    elt(1 + crc32(concat(id, ':20')) % 6, 'pizza', 'sushi', 'burger', 'grocery', 'pharmacy', 'flowers'),
    elt(1 + crc32(concat(id, ':1')) % 10, 'Milano', 'Roma', 'Torino', 'Berlin', 'Hamburg', 'Paris', 'Lyon', 'Praha', 'Madrid', 'Lisboa')
FROM shop_numbers WHERE id <= 500;

-- An order has 1 to 5 items; an item's id is its order's id times 8 and its place, until AUTO_INCREMENT takes over.
INSERT INTO order_items (id, order_id, sku, title, quantity, unit_price)
SELECT id, order_id, concat('SKU-', lpad(crc32(concat(id, ':40')) % 5000, 6, '0')), concat('Product ', crc32(concat(id, ':40')) % 5000, ' standard size'),
    1 + crc32(concat(id, ':3')) % 3, (100 + crc32(concat(id, ':4')) % 3000) / 100
FROM (
    SELECT n.id AS order_id, n.id * 8 + k.d AS id
    FROM shop_numbers n JOIN shop_digits k ON k.d BETWEEN 1 AND 1 + crc32(concat(n.id, ':2')) % 5
    WHERE n.id <= @orders
) items;

INSERT INTO orders (id, customer_id, merchant_id, status, total, currency, placed_at, updated_at)
SELECT n.id,
    1 + crc32(concat(n.id, ':30')) % greatest(1000, floor(@orders / 10)),
    1 + crc32(concat(n.id, ':31')) % 500,
    -- of 20 orders one is placed, one accepted, two are dispatched, one is cancelled, the others are delivered
    coalesce(elt(1 + crc32(concat(n.id, ':32')) % 20, 'placed', 'accepted', 'dispatched', 'dispatched', 'cancelled'), 'delivered'),
    i.total, 'EUR',
    timestamp('2024-01-01 00:00:00') + INTERVAL crc32(concat(n.id, ':33')) % 50000000 SECOND,
    timestamp('2024-01-01 00:00:00') + INTERVAL crc32(concat(n.id, ':33')) % 50000000 + crc32(concat(n.id, ':34')) % 7200 SECOND
FROM shop_numbers n
JOIN (SELECT order_id, sum(quantity * unit_price) AS total FROM order_items GROUP BY order_id) i ON i.order_id = n.id;

INSERT INTO deliveries (order_id, rider, dispatched_at, delivered_at, distance_m)
SELECT id, concat('rider-', 1 + crc32(concat(id, ':50')) % 900), updated_at,
    CASE WHEN status = 'delivered' THEN updated_at + INTERVAL 600 + crc32(concat(id, ':51')) % 3000 SECOND END,
    300 + crc32(concat(id, ':52')) % 9000
FROM orders WHERE status IN ('dispatched', 'delivered');

DROP TABLE shop_digits;
DROP TEMPORARY TABLE shop_numbers;

-- No cascades: what a foreign key deletes by itself is not in the binary log, and so not in a change feed.
ALTER TABLE orders
    ADD INDEX orders_customer_id (customer_id), ADD INDEX orders_merchant_id (merchant_id),
    ADD FOREIGN KEY (customer_id) REFERENCES customers (id), ADD FOREIGN KEY (merchant_id) REFERENCES merchants (id);
ALTER TABLE order_items ADD INDEX order_items_order_id (order_id), ADD FOREIGN KEY (order_id) REFERENCES orders (id);
ALTER TABLE deliveries ADD FOREIGN KEY (order_id) REFERENCES orders (id);
ANALYZE TABLE customers, merchants, orders, order_items, deliveries;
