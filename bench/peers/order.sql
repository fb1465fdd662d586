-- The bench's document of one or more orders, as JSON that PostgreSQL builds; schemas/shop/orders/document.sql gives the same in columns.
SELECT d.id, row_to_json(d)::text AS doc FROM (
  SELECT o.id, o.status, o.total, o.currency, o.placed_at, o.updated_at,
    row_to_json(c) AS customer, row_to_json(m) AS merchant, i.items,
    json_build_object('rider', v.rider, 'dispatched_at', v.dispatched_at, 'delivered_at', v.delivered_at, 'distance_m', v.distance_m) AS delivery
  FROM orders o
  JOIN customers c ON c.id = o.customer_id
  JOIN merchants m ON m.id = o.merchant_id
  LEFT JOIN deliveries v ON v.order_id = o.id
  LEFT JOIN LATERAL (
    SELECT json_agg(json_build_object('id', x.id, 'sku', x.sku, 'title', x.title, 'quantity', x.quantity, 'unit_price', x.unit_price) ORDER BY x.id) AS items
    FROM order_items x WHERE x.order_id = o.id
  ) i ON true
  WHERE o.id = ANY($1)
) d
