-- One order in columns, as a worker that takes a job at a time asks for it.
SELECT o.id, o.status, o.total, o.currency, o.placed_at, o.updated_at,
  c.id AS customer_id, c.name AS customer_name, c.email, c.city AS customer_city, c.country, c.created_at,
  m.id AS merchant_id, m.name AS merchant_name, m.category, m.city AS merchant_city, i.items,
  v.rider, v.dispatched_at, v.delivered_at, v.distance_m
FROM orders o
JOIN customers c ON c.id = o.customer_id
JOIN merchants m ON m.id = o.merchant_id
LEFT JOIN deliveries v ON v.order_id = o.id
LEFT JOIN LATERAL (
  SELECT json_agg(json_build_object('id', x.id, 'sku', x.sku, 'title', x.title, 'quantity', x.quantity, 'unit_price', x.unit_price) ORDER BY x.id) AS items
  FROM order_items x WHERE x.order_id = o.id
) i ON true
WHERE o.id = $1
