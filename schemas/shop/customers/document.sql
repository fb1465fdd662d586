-- Lifetime figures leave cancelled orders out.
SELECT
    c.id AS _id,
    c.id,
    c.name,
    c.email,
    c.city,
    c.country,
    c.created_at,
    t.orders AS "lifetime.orders",
    t.revenue AS "lifetime.revenue",
    t.first_order_at AS "lifetime.first_order_at",
    t.last_order_at AS "lifetime.last_order_at"
FROM customers c
LEFT JOIN LATERAL (
    SELECT count(*) AS orders, coalesce(sum(o.total), 0) AS revenue,
        min(o.placed_at) AS first_order_at, max(o.placed_at) AS last_order_at
    FROM orders o
    WHERE o.customer_id = c.id AND o.status <> 'cancelled'
) t ON true
WHERE c.id = ANY(:ids)
