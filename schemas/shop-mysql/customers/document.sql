-- Lifetime figures leave cancelled orders out.
SELECT
    c.id AS _id,
    c.id,
    c.name,
    c.email,
    c.city,
    c.country,
    c.created_at,
    coalesce(t.orders, 0) AS "lifetime.orders",
    coalesce(t.revenue, 0) AS "lifetime.revenue",
    t.first_order_at AS "lifetime.first_order_at",
    t.last_order_at AS "lifetime.last_order_at"
FROM customers c
LEFT JOIN (
    SELECT o.customer_id, count(*) AS orders, sum(o.total) AS revenue,
        min(o.placed_at) AS first_order_at, max(o.placed_at) AS last_order_at
    FROM orders o
    WHERE o.customer_id IN (:ids) AND o.status <> 'cancelled'
    GROUP BY o.customer_id
) t ON t.customer_id = c.id
WHERE c.id IN (:ids)
