-- Lifetime figures leave cancelled orders out.
SELECT
    m.id AS _id,
    m.id,
    m.name,
    m.category,
    m.city,
    t.orders AS "lifetime.orders",
    t.customers AS "lifetime.customers",
    t.revenue AS "lifetime.revenue",
    t.last_order_at AS "lifetime.last_order_at"
FROM merchants m
LEFT JOIN LATERAL (
    SELECT count(*) AS orders, count(DISTINCT o.customer_id) AS customers, coalesce(sum(o.total), 0) AS revenue,
        max(o.placed_at) AS last_order_at
    FROM orders o
    WHERE o.merchant_id = m.id AND o.status <> 'cancelled'
) t ON true
WHERE m.id = ANY(:ids)
