SELECT
    o.id AS _id,
    o.id,
    o.status,
    o.total,
    o.currency,
    o.placed_at,
    o.updated_at,
    c.id AS "customer.id",
    c.name AS "customer.name",
    c.email AS "customer.email",
    c.city AS "customer.city",
    c.country AS "customer.country",
    c.created_at AS "customer.created_at",
    m.id AS "merchant.id",
    m.name AS "merchant.name",
    m.category AS "merchant.category",
    m.city AS "merchant.city",
    i.items,
    d.rider AS "delivery.rider",
    d.dispatched_at AS "delivery.dispatched_at",
    d.delivered_at AS "delivery.delivered_at",
    d.distance_m AS "delivery.distance_m"
FROM orders o
JOIN customers c ON c.id = o.customer_id
JOIN merchants m ON m.id = o.merchant_id
LEFT JOIN deliveries d ON d.order_id = o.id
LEFT JOIN (
    -- MySQL's JSON_ARRAYAGG has no order. The mapping calls it nested, so that the text is JSON.
    SELECT x.order_id, CONCAT('[', GROUP_CONCAT(JSON_OBJECT(
        'id', x.id, 'sku', x.sku, 'title', x.title, 'quantity', x.quantity, 'unit_price', x.unit_price
    ) ORDER BY x.id SEPARATOR ','), ']') AS items
    FROM order_items x
    WHERE x.order_id IN (:ids)
    GROUP BY x.order_id
) i ON i.order_id = o.id
WHERE o.id IN (:ids)
