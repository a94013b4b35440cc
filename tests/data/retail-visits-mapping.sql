-- Online Retail (UCI) as `payment` events with their country: one event an invoice line, as in `retail-mapping.sql`.
SELECT
  'retail' AS tenant,
  CASE WHEN "CustomerID" IS NULL THEN 'guest' ELSE REPLACE("CustomerID", '.0', '') END AS subscriber_id,
  CAST("InvoiceDate" AS TIMESTAMP) AS event_time,
  CASE WHEN "InvoiceNo" LIKE 'C%' THEN 'refunded' ELSE 'ok' END AS outcome,
  CAST(CAST(CAST("Quantity" AS DECIMAL(10, 0)) * CAST("UnitPrice" AS DECIMAL(12, 3)) * 100 AS DECIMAL(20, 0)) AS BIGINT) AS amount_minor,
  "InvoiceNo" AS invoice_id,
  "Country" AS country
FROM input
