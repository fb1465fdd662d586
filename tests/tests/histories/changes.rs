//! Random changes to the shop, in SQL that PostgreSQL and MariaDB take alike.

use std::time::Duration;

use pinion_tests::Dice;

/// Ids that orders have, or may get.
pub(super) const ORDERS: i64 = 300;
const NEW_ORDERS: i64 = 30;
/// The first of these are never deleted, and their totals only rise: a clock for readers.
pub(super) const CLOCKS: i64 = 3;
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

/// What a statement changes besides its own row: the documents that an application's hook has to tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Touch {
    /// The documents of these orders, and of nothing else.
    Orders(Vec<i64>),
    /// Those of the orders that these items belong to before the statement.
    Items(Vec<i64>),
    /// Those of the orders that a condition finds before or after it, of their customers and their merchants.
    Totals(String),
    /// Those of these customers, and of all of their orders.
    Customers(Vec<i64>),
    /// The same of merchants.
    Merchants(Vec<i64>),
    /// Those of all orders.
    AllOrders,
}

/// One statement with what it touches.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) touches: Vec<Touch>,
}

/// Some statements, together.
#[derive(Debug)]
pub(super) struct Transaction {
    /// What it does.
    pub(super) statements: Vec<Statement>,
    /// Or else it is rolled back.
    pub(super) commit: bool,
    /// How long it stays open before it ends.
    pub(super) open_for: Duration,
    /// The order whose total is a clock, and rises.
    pub(super) ticks: Option<i64>,
}

/// What a seed allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// A truncation touches every document, and so mends them.
    pub(super) truncate: bool,
    /// Names that no keyword can hold, until [`MEND`]: their documents are refused.
    pub(super) spoil: bool,
}

/// Mends spoiled names. Nobody tells of it: only a replayed dead letter brings these documents back.
pub(super) const MEND: &str = "UPDATE customers SET name = 'Mended' WHERE length(name) > 1000";

impl Transaction {
    /// A random one.
    pub(super) fn new(dice: &mut Dice, once: &mut Once, allowed: Allowed) -> Self {
        let mut transaction =
            Self { statements: Vec::new(), commit: dice.percent(85), open_for: Duration::ZERO, ticks: None };
        if dice.percent(3) {
            transaction.open_for = Duration::from_millis(dice.of(100..=3000).unsigned_abs());
        }
        if dice.of(1..=300) == 1 && allowed.truncate {
            // By itself: MariaDB commits what stands before it.
            let table = dice.one(&["deliveries", "order_items"]);
            transaction.run(format!("TRUNCATE TABLE {table}"), [Touch::AllOrders]);
        } else if dice.of(1..=150) == 1 && allowed.spoil {
            transaction.commit = true;
            let id = dice.of(1..=CUSTOMERS);
            let spoil = format!("UPDATE customers SET name = repeat('x', 40000) WHERE id = {id}");
            transaction.run(spoil, [Touch::Customers(vec![id])]);
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
            let clock = dice.of(1..=CLOCKS);
            transaction.ticks = Some(clock);
            transaction.of_totals("total = total + 1", format!("id = {clock}"));
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
    }

    fn change_once(&mut self, dice: &mut Dice, once: &mut Once) {
        let mut take = || once.open.swap_remove(dice.of(0..=once.open.len() as i64 - 1).unsigned_abs() as usize);
        let (id, other) = (take(), take());
        match dice.of(1..=7) {
            1 => self.of_orders(&[id], format!("UPDATE order_items SET quantity = quantity + 1 WHERE order_id = {id}")),
            2 => self.of_orders(&[id], format!("DELETE FROM order_items WHERE order_id = {id}")),
            3 => {
                self.of_orders(&[id, other], format!("UPDATE order_items SET order_id = {other} WHERE order_id = {id}"))
            }
            4 => self.run(
                format!("UPDATE customers SET name = 'Once' WHERE id IN ({id}, {other})"),
                [Touch::Customers(vec![id, other])],
            ),
            5 => {
                let found = format!("id IN ({id}, {other})");
                self.of_totals("total = total + 1", found);
            }
            6 => self.insert_delivery(id, "once", 1),
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

    fn run(&mut self, sql: String, touches: impl Into<Vec<Touch>>) {
        self.statements.push(Statement { sql, touches: touches.into() });
    }

    /// A change of what belongs to these orders and is summed up nowhere else.
    fn of_orders(&mut self, orders: &[i64], sql: String) {
        self.run(sql, [Touch::Orders(orders.to_vec())]);
    }

    /// A change of the orders that a condition finds.
    fn of_totals(&mut self, change: &str, found: String) {
        self.run(format!("UPDATE orders SET {change} WHERE {found}"), [Touch::Totals(found)]);
    }

    fn change_order(&mut self, dice: &mut Dice) {
        let id = order(dice);
        let status = dice.one(&["placed", "accepted", "dispatched", "delivered", "cancelled"]);
        let change = match dice.of(1..=4) {
            1 => format!("status = '{status}'"),
            2 => format!("total = {}.{:02}", dice.of(0..=9999), dice.of(0..=99)),
            3 => format!("customer_id = {}", customer(dice)),
            _ => format!("merchant_id = {}", merchant(dice)),
        };
        self.of_totals(&format!("{change}, updated_at = updated_at + INTERVAL '1' SECOND"), format!("id = {id}"));
    }

    /// A key that is there may come again, at once or later.
    fn replace_or_delete_order(&mut self, dice: &mut Dice) {
        let id = order(dice);
        if dice.percent(70) {
            self.delete_order(id);
        }
        if dice.percent(80) {
            let (customer, merchant) = (customer(dice), merchant(dice));
            self.insert_order(dice, id, customer, merchant);
            for place in 0..dice.of(0..=4) {
                // A replaced order's items come with the keys of those before.
                self.insert_item(dice, id * 8 + place, id);
            }
        }
    }

    fn delete_order(&mut self, id: i64) {
        for table in ["order_items", "deliveries"] {
            self.of_orders(&[id], format!("DELETE FROM {table} WHERE order_id = {id}"));
        }
        self.run(format!("DELETE FROM orders WHERE id = {id}"), [Touch::Totals(format!("id = {id}"))]);
    }

    fn insert_order(&mut self, dice: &mut Dice, id: i64, customer: i64, merchant: i64) {
        let total = dice.of(1..=500);
        self.run(
            format!(
                "INSERT INTO orders (id, customer_id, merchant_id, total, placed_at, updated_at) \
                 VALUES ({id}, {customer}, {merchant}, {total}, '2025-01-01 00:00:00', '2025-01-01 00:00:00')"
            ),
            [Touch::Totals(format!("id = {id}"))],
        );
    }

    fn insert_customer(&mut self, id: i64, name: i64) {
        self.run(
            format!(
                "INSERT INTO customers (id, name, email, city, country, created_at) \
                 VALUES ({id}, 'Customer {name}', 'a@example.org', 'Roma', 'IT', '2025-01-01 00:00:00')"
            ),
            [Touch::Customers(vec![id])],
        );
    }

    fn insert_item(&mut self, dice: &mut Dice, id: i64, order: i64) {
        let (sku, quantity, price) = (dice.of(1..=50), dice.of(1..=9), dice.of(1..=99));
        self.of_orders(
            &[order],
            format!(
                "INSERT INTO order_items (id, order_id, sku, title, quantity, unit_price) \
                 VALUES ({id}, {order}, 'SKU-{sku}', 'Product {sku}', {quantity}, {price}.50)"
            ),
        );
    }

    fn insert_delivery(&mut self, order: i64, rider: &str, distance_m: i64) {
        self.of_orders(
            &[order],
            format!(
                "INSERT INTO deliveries (order_id, rider, dispatched_at, distance_m) \
                 VALUES ({order}, '{rider}', '2025-01-02 00:00:00', {distance_m})"
            ),
        );
    }

    fn change_items(&mut self, dice: &mut Dice) {
        let (order, other) = (order(dice), order(dice));
        let item = order * 8 + dice.of(0..=7);
        match dice.of(1..=8) {
            1 => self.run(
                format!("UPDATE order_items SET order_id = {other} WHERE id = {item}"),
                [Touch::Items(vec![item]), Touch::Orders(vec![other])],
            ),
            2 => self.of_orders(
                &[order, other],
                format!("UPDATE order_items SET order_id = {other} WHERE order_id = {order}"),
            ),
            3 => self.run(format!("DELETE FROM order_items WHERE id = {item}"), [Touch::Items(vec![item])]),
            4 => self.of_orders(&[order], format!("DELETE FROM order_items WHERE order_id = {order}")),
            // The key itself changes.
            5 => self.of_orders(
                &[order],
                format!("UPDATE order_items SET id = id + 100000 WHERE order_id = {order} AND id < 100000"),
            ),
            6 => self.insert_item(dice, item, other),
            _ => self.of_orders(
                &[order],
                format!("UPDATE order_items SET quantity = quantity + 1 WHERE order_id = {order}"),
            ),
        }
    }

    fn change_delivery(&mut self, dice: &mut Dice) {
        let (order, other, rider) = (order(dice), order(dice), dice.of(1..=99));
        match dice.of(1..=4) {
            1 => self
                .of_orders(&[order], format!("UPDATE deliveries SET rider = 'rider-{rider}' WHERE order_id = {order}")),
            2 => self.of_orders(&[order], format!("DELETE FROM deliveries WHERE order_id = {order}")),
            3 => self.of_orders(
                &[order, other],
                format!("UPDATE deliveries SET order_id = {other} WHERE order_id = {order}"),
            ),
            _ => self.insert_delivery(order, &format!("rider-{rider}"), rider),
        }
    }

    /// What many orders show.
    fn change_parent(&mut self, dice: &mut Dice) {
        let name = dice.of(1..=9999);
        match dice.of(1..=5) {
            1 | 2 => {
                let id = customer(dice);
                self.run(
                    format!("UPDATE customers SET name = 'Customer {name}' WHERE id = {id}"),
                    [Touch::Customers(vec![id])],
                );
            }
            3 | 4 => {
                let id = merchant(dice);
                self.run(
                    format!("UPDATE merchants SET name = 'Merchant {name}' WHERE id = {id}"),
                    [Touch::Merchants(vec![id])],
                );
            }
            _ => {
                let id = LAST_CUSTOMER + dice.of(1..=5);
                self.run(format!("DELETE FROM customers WHERE id = {id}"), [Touch::Customers(vec![id])]);
                if dice.percent(70) {
                    self.insert_customer(id, name);
                }
            }
        }
    }

    /// Many rows at once.
    fn change_many(&mut self, dice: &mut Dice) {
        let (parts, part, last) = (7, dice.of(0..=6), ORDERS + NEW_ORDERS);
        let orders = || (1..=last).filter(|id| id % parts == part).collect::<Vec<_>>();
        match dice.of(1..=4) {
            1 => self.of_totals("total = total + 1", format!("id % {parts} = {part} AND id <= {last}")),
            2 => self.of_orders(
                &orders(),
                format!("UPDATE order_items SET quantity = quantity + 1 WHERE order_id % {parts} = {part} AND order_id <= {last}"),
            ),
            3 => {
                let customer = customer(dice);
                self.of_totals(&format!("customer_id = {customer}"), format!("id % 50 = {part} AND id <= {last}"));
            }
            _ => self.of_orders(
                &orders(),
                format!(
                    "INSERT INTO deliveries (order_id, rider, dispatched_at, distance_m) \
                     SELECT o.id, 'rider-0', '2025-01-02 00:00:00', 100 FROM orders o WHERE o.id % {parts} = {part} AND o.id <= {last} \
                     AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.order_id = o.id)"
                ),
            ),
        }
    }
}

fn order(dice: &mut Dice) -> i64 {
    dice.of(CLOCKS + 1..=ORDERS + NEW_ORDERS)
}

fn customer(dice: &mut Dice) -> i64 {
    dice.of(1..=CUSTOMERS)
}

fn merchant(dice: &mut Dice) -> i64 {
    dice.of(1..=MERCHANTS)
}
