-- Online Retail (UCI) as `payment` events: one event an invoice line.
-- Times have no zone and are taken as UTC; lines without a customer are the subscriber `guest`; invoices that begin with C are
-- cancellations. The amount is exact: decimals all the way, rounded once, half away from zero.
SELECT
  'retail' AS tenant,
  CASE WHEN "CustomerID" IS NULL THEN 'guest' ELSE REPLACE("CustomerID", '.0', '') END AS subscriber_id,
  CAST("InvoiceDate" AS TIMESTAMP) AS event_time,
  CASE WHEN "InvoiceNo" LIKE 'C%' THEN 'refunded' ELSE 'ok' END AS outcome,
  CAST(CAST(CAST("Quantity" AS DECIMAL(10, 0)) * CAST("UnitPrice" AS DECIMAL(12, 3)) * 100 AS DECIMAL(20, 0)) AS BIGINT) AS amount_minor,
  'GBP' AS currency,
  "InvoiceNo" AS invoice_id
FROM input
