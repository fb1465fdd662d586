-- Lifetime figures leave cancelled orders out.
SELECT
    m.id AS _id,
    m.id,
    m.name,
    m.category,
    m.city,
    coalesce(t.orders, 0) AS "lifetime.orders",
    coalesce(t.customers, 0) AS "lifetime.customers",
    coalesce(t.revenue, 0) AS "lifetime.revenue",
    t.last_order_at AS "lifetime.last_order_at"
FROM merchants m
LEFT JOIN (
    SELECT o.merchant_id, count(*) AS orders, count(DISTINCT o.customer_id) AS customers, sum(o.total) AS revenue,
        max(o.placed_at) AS last_order_at
    FROM orders o
    WHERE o.merchant_id IN (:ids) AND o.status <> 'cancelled'
    GROUP BY o.merchant_id
) t ON t.merchant_id = m.id
WHERE m.id IN (:ids)
