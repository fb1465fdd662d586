//! Random changes to the shop, in SQL that PostgreSQL and MariaDB take alike.

use pinion_tests::Dice;

/// Ids that orders have, or may get.
pub(super) const ORDERS: i64 = 300;
const NEW_ORDERS: i64 = 30;
/// Few, so that each has many orders.
pub(super) const CUSTOMERS: i64 = 20;
pub(super) const MERCHANTS: i64 = 10;
/// Those of the shop end here; a few come and go behind.
const LAST_CUSTOMER: i64 = 1000;
const LAST_MERCHANT: i64 = 500;

/// Orders, each with a customer of its own, that are made, changed once and never again: what is lost of them is not mended by a
/// later change.
pub(super) struct Once {
    next: i64,
    /// Those that wait for their change.
    open: Vec<i64>,
}

impl Once {
    /// Those of one application; no two have the same number.
    pub(super) fn new(application: usize) -> Self {
        Self { next: 1_000_000 * (1 + application as i64), open: Vec::new() }
    }
}

/// Some statements, together.
pub(super) struct Transaction {
    /// What it does.
    pub(super) statements: Vec<String>,
    /// Or else it is rolled back.
    pub(super) commit: bool,
    /// The documents that an application's hook would name, by their job.
    pub(super) touched: Vec<(&'static str, i64)>,
}

impl Transaction {
    /// A random one. A truncation touches every document, and so mends them.
    pub(super) fn new(dice: &mut Dice, once: &mut Once, may_truncate: bool) -> Self {
        let mut transaction = Self { statements: Vec::new(), commit: dice.percent(85), touched: Vec::new() };
        if dice.of(1..=300) == 1 && may_truncate {
            // By itself: MariaDB commits what stands before it.
            transaction.statements.push(format!("TRUNCATE TABLE {}", dice.one(&["deliveries", "order_items"])));
        } else if dice.percent(40) {
            transaction.commit = true;
            if once.open.len() < 10 || dice.percent(50) {
                transaction.make_once(dice, once);
            } else {
                transaction.change_once(dice, once);
            }
        } else {
            for _ in 0..dice.of(1..=4) {
                transaction.add(dice);
            }
        }
        transaction
    }

    fn make_once(&mut self, dice: &mut Dice, once: &mut Once) {
        let id = once.next;
        once.next += 1;
        once.open.push(id);
        self.insert_customer(id, id);
        // Nobody renames these merchants.
        self.insert_order(dice, id, id, MERCHANTS + 1 + id % (LAST_MERCHANT - MERCHANTS));
        for place in 0..dice.of(1..=3) {
            self.insert_item(dice, id * 8 + place, id);
        }
        self.touched.push(("orders", id));
    }

    fn change_once(&mut self, dice: &mut Dice, once: &mut Once) {
        let mut take = || once.open.swap_remove(dice.of(0..=once.open.len() as i64 - 1).unsigned_abs() as usize);
        let (id, other) = (take(), take());
        match dice.of(1..=7) {
            1 => self.run(format!("UPDATE order_items SET quantity = quantity + 1 WHERE order_id = {id}")),
            2 => self.run(format!("DELETE FROM order_items WHERE order_id = {id}")),
            3 => self.run(format!("UPDATE order_items SET order_id = {other} WHERE order_id = {id}")),
            4 => self.run(format!("UPDATE customers SET name = 'Once' WHERE id IN ({id}, {other})")),
            5 => self.run(format!("UPDATE orders SET total = total + 1 WHERE id IN ({id}, {other})")),
            6 => self.run(format!(
                "INSERT INTO deliveries (order_id, rider, dispatched_at, distance_m) VALUES ({id}, 'once', '2025-01-02 00:00:00', 1)"
            )),
            _ => self.delete_order(id),
        }
    }

    fn add(&mut self, dice: &mut Dice) {
        match dice.of(1..=100) {
            1..=25 => self.change_order(dice),
            26..=40 => self.replace_or_delete_order(dice),
            41..=70 => self.change_items(dice),
            71..=82 => self.change_delivery(dice),
            83..=96 => self.change_parent(dice),
            _ => self.change_many(dice),
        }
    }

    fn run(&mut self, statement: String) {
        self.statements.push(statement);
    }

    fn order(&mut self, dice: &mut Dice) -> i64 {
        let id = dice.of(1..=ORDERS + NEW_ORDERS);
        self.touched.push(("orders", id));
        id
    }

    fn customer(&mut self, dice: &mut Dice) -> i64 {
        let id = dice.of(1..=CUSTOMERS);
        self.touched.push(("customers", id));
        id
    }

    fn merchant(&mut self, dice: &mut Dice) -> i64 {
        let id = dice.of(1..=MERCHANTS);
        self.touched.push(("merchants", id));
        id
    }

    fn change_order(&mut self, dice: &mut Dice) {
        let id = self.order(dice);
        let status = dice.one(&["placed", "accepted", "dispatched", "delivered", "cancelled"]);
        let change = match dice.of(1..=4) {
            1 => format!("status = '{status}'"),
            2 => format!("total = {}.{:02}", dice.of(0..=9999), dice.of(0..=99)),
            3 => format!("customer_id = {}", self.customer(dice)),
            _ => format!("merchant_id = {}", self.merchant(dice)),
        };
        self.run(format!("UPDATE orders SET {change}, updated_at = updated_at + INTERVAL '1' SECOND WHERE id = {id}"));
    }

    /// A key that is there may come again, at once or later.
    fn replace_or_delete_order(&mut self, dice: &mut Dice) {
        let id = self.order(dice);
        if dice.percent(70) {
            self.delete_order(id);
        }
        if dice.percent(80) {
            let (customer, merchant) = (self.customer(dice), self.merchant(dice));
            self.insert_order(dice, id, customer, merchant);
            for place in 0..dice.of(0..=4) {
                // A replaced order's items come with the keys of those before.
                self.insert_item(dice, id * 8 + place, id);
            }
        }
    }

    fn delete_order(&mut self, id: i64) {
        for table in ["order_items", "deliveries"] {
            self.run(format!("DELETE FROM {table} WHERE order_id = {id}"));
        }
        self.run(format!("DELETE FROM orders WHERE id = {id}"));
    }

    fn insert_order(&mut self, dice: &mut Dice, id: i64, customer: i64, merchant: i64) {
        self.run(format!(
            "INSERT INTO orders (id, customer_id, merchant_id, total, placed_at, updated_at) \
             VALUES ({id}, {customer}, {merchant}, {}, '2025-01-01 00:00:00', '2025-01-01 00:00:00')",
            dice.of(1..=500)
        ));
    }

    fn insert_customer(&mut self, id: i64, name: i64) {
        self.run(format!(
            "INSERT INTO customers (id, name, email, city, country, created_at) \
             VALUES ({id}, 'Customer {name}', 'a@example.org', 'Roma', 'IT', '2025-01-01 00:00:00')"
        ));
    }

    fn insert_item(&mut self, dice: &mut Dice, id: i64, order: i64) {
        let (sku, quantity, price) = (dice.of(1..=50), dice.of(1..=9), dice.of(1..=99));
        self.run(format!(
            "INSERT INTO order_items (id, order_id, sku, title, quantity, unit_price) \
             VALUES ({id}, {order}, 'SKU-{sku}', 'Product {sku}', {quantity}, {price}.50)"
        ));
    }

    fn change_items(&mut self, dice: &mut Dice) {
        let (order, other) = (self.order(dice), self.order(dice));
        let item = order * 8 + dice.of(0..=7);
        match dice.of(1..=8) {
            1 => self.run(format!("UPDATE order_items SET order_id = {other} WHERE id = {item}")),
            2 => self.run(format!("UPDATE order_items SET order_id = {other} WHERE order_id = {order}")),
            3 => self.run(format!("DELETE FROM order_items WHERE id = {item}")),
            4 => self.run(format!("DELETE FROM order_items WHERE order_id = {order}")),
            // The key itself changes.
            5 => self.run(format!("UPDATE order_items SET id = id + 100000 WHERE order_id = {order} AND id < 100000")),
            6 => self.insert_item(dice, item, other),
            _ => self.run(format!("UPDATE order_items SET quantity = quantity + 1 WHERE order_id = {order}")),
        }
    }

    fn change_delivery(&mut self, dice: &mut Dice) {
        let (order, other, rider) = (self.order(dice), self.order(dice), dice.of(1..=99));
        match dice.of(1..=4) {
            1 => self.run(format!("UPDATE deliveries SET rider = 'rider-{rider}' WHERE order_id = {order}")),
            2 => self.run(format!("DELETE FROM deliveries WHERE order_id = {order}")),
            3 => self.run(format!("UPDATE deliveries SET order_id = {other} WHERE order_id = {order}")),
            _ => self.run(format!(
                "INSERT INTO deliveries (order_id, rider, dispatched_at, distance_m) \
                 VALUES ({order}, 'rider-{rider}', '2025-01-02 00:00:00', {rider})"
            )),
        }
    }

    /// What many orders show.
    fn change_parent(&mut self, dice: &mut Dice) {
        let name = dice.of(1..=9999);
        match dice.of(1..=5) {
            1 | 2 => {
                let id = self.customer(dice);
                self.run(format!("UPDATE customers SET name = 'Customer {name}' WHERE id = {id}"));
            }
            3 | 4 => {
                let id = self.merchant(dice);
                self.run(format!("UPDATE merchants SET name = 'Merchant {name}' WHERE id = {id}"));
            }
            _ => {
                let id = LAST_CUSTOMER + dice.of(1..=5);
                self.touched.push(("customers", id));
                self.run(format!("DELETE FROM customers WHERE id = {id}"));
                if dice.percent(70) {
                    self.insert_customer(id, name);
                }
            }
        }
    }

    /// Many rows at once. A hook would not know them.
    fn change_many(&mut self, dice: &mut Dice) {
        let (parts, part, last) = (7, dice.of(0..=6), ORDERS + NEW_ORDERS);
        match dice.of(1..=4) {
            1 => self.run(format!("UPDATE orders SET total = total + 1 WHERE id % {parts} = {part} AND id <= {last}")),
            2 => self.run(format!("UPDATE order_items SET quantity = quantity + 1 WHERE order_id % {parts} = {part} AND order_id <= {last}")),
            3 => {
                let customer = self.customer(dice);
                self.run(format!("UPDATE orders SET customer_id = {customer} WHERE id % 50 = {part} AND id <= {last}"));
            }
            _ => self.run(format!(
                "INSERT INTO deliveries (order_id, rider, dispatched_at, distance_m) \
                 SELECT o.id, 'rider-0', '2025-01-02 00:00:00', 100 FROM orders o WHERE o.id % {parts} = {part} AND o.id <= {last} \
                 AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.order_id = o.id)"
            )),
        }
    }
}
