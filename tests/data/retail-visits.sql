-- How customers shop: their visits, the ten best of a day, where they are and what tax holds there, how many there are in 30 days, and what an
-- invoice is worth.
CREATE SOURCE payment (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, outcome TEXT, amount_minor BIGINT, invoice_id TEXT, country TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '1 hour'
) WITH (topic = 'payment.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE TABLE countries (
  country TEXT, event_time TIMESTAMPTZ, continent TEXT, vat_permille BIGINT,
  WATERMARK FOR event_time AS event_time
) WITH (topic = 'country.v1', format = 'json', key = 'country');

-- A visit ends when a customer has bought nothing for half an hour.
CREATE MATERIALIZED VIEW visit AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS lines, COUNT(DISTINCT invoice_id) AS invoices, SUM(amount_minor) AS revenue_minor,
  COUNT(*) FILTER (WHERE outcome = 'refunded') AS refunded, FIRST_VALUE(invoice_id) AS first_invoice, MAX(amount_minor) AS dearest_minor
FROM SESSION(payment, event_time, INTERVAL '30 minutes')
WHERE subscriber_id <> 'guest'
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;

-- Level 2 over sessions: the visits that ended on a day.
CREATE MATERIALIZED VIEW visits_day AS
SELECT tenant, window_start, window_end, COUNT(*) AS visits, SUM(lines) AS lines, SUM(revenue_minor) AS revenue_minor, MAX(invoices) AS invoices_most
FROM TUMBLE(visit, window_end, INTERVAL '1 day')
GROUP BY tenant, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW customer_day AS
SELECT tenant, subscriber_id, window_start, window_end, SUM(amount_minor) AS revenue_minor, COUNT(*) AS lines
FROM TUMBLE(payment, event_time, INTERVAL '1 day')
WHERE subscriber_id <> 'guest'
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW best_customers_day AS
SELECT tenant, window_start, window_end, place, subscriber_id, revenue_minor, lines
FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant, window_start, window_end ORDER BY revenue_minor DESC, subscriber_id) AS place FROM customer_day
)
WHERE place <= 10
EMIT ON WINDOW CLOSE;

-- An invoice is opened by its first line.
CREATE MATERIALIZED VIEW invoice_opened AS
SELECT tenant, subscriber_id, invoice_id, event_time, amount_minor
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant, subscriber_id, invoice_id ORDER BY event_time) AS place FROM payment)
WHERE place = 1
EMIT CHANGES;

CREATE MATERIALIZED VIEW customer AS
SELECT tenant, subscriber_id, LAST_VALUE(country) AS country, SUM(amount_minor) AS revenue_minor, COUNT(*) AS lines
FROM payment
GROUP BY tenant, subscriber_id
EMIT CHANGES;

-- The country is no key of the customer: rows are exchanged. Two "countries" of the data are in no table.
CREATE MATERIALIZED VIEW customer_place AS
SELECT c.tenant AS tenant, c.subscriber_id AS subscriber_id, c.country AS country, c.revenue_minor AS revenue_minor, c.lines AS lines,
  l.continent AS continent, l.vat_permille AS vat_permille
FROM customer c
LEFT JOIN countries l ON l.country = c.country
EMIT CHANGES;

-- The tax that held when the line was sold.
CREATE MATERIALIZED VIEW line_vat AS
SELECT payment.tenant AS tenant, payment.subscriber_id AS subscriber_id, payment.event_time AS event_time, payment.invoice_id AS invoice_id,
  payment.amount_minor AS amount_minor, countries.continent AS continent, countries.vat_permille AS vat_permille
FROM payment
LEFT JOIN countries FOR SYSTEM_TIME AS OF payment.event_time ON payment.country = countries.country;

CREATE MATERIALIZED VIEW customers_30d AS
SELECT window_start, window_end, COUNT(DISTINCT subscriber_id) AS customers, COUNT(DISTINCT country) AS countries, COUNT(*) AS lines
FROM HOP(payment, event_time, INTERVAL '1 day', INTERVAL '30 days')
WHERE subscriber_id <> 'guest'
GROUP BY window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW invoice_day AS
SELECT tenant, subscriber_id, invoice_id, window_start, window_end, SUM(amount_minor) AS value_minor, COUNT(*) AS lines
FROM TUMBLE(payment, event_time, INTERVAL '1 day')
WHERE outcome = 'ok'
GROUP BY tenant, subscriber_id, invoice_id, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW invoice_value_day AS
SELECT tenant, window_start, window_end, COUNT(*) AS invoices, COUNT(DISTINCT subscriber_id) AS customers,
  median(CAST(value_minor AS DOUBLE)) AS median_minor, percentile_cont(0.95) WITHIN GROUP (ORDER BY CAST(value_minor AS DOUBLE)) AS p95_minor
FROM TUMBLE(invoice_day, window_end, INTERVAL '1 day')
GROUP BY tenant, window_start, window_end
EMIT ON WINDOW CLOSE;

-- The same of single lines, where the tasks of the customers have the rows and another task has the result.
CREATE MATERIALIZED VIEW line_value_day AS
SELECT tenant, window_start, window_end, COUNT(*) AS lines, median(CAST(amount_minor AS DOUBLE)) AS median_minor,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY CAST(amount_minor AS DOUBLE)) AS p95_minor
FROM TUMBLE(payment, event_time, INTERVAL '1 day')
WHERE outcome = 'ok'
GROUP BY tenant, window_start, window_end
EMIT ON WINDOW CLOSE;
