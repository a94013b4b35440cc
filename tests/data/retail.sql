-- What customers spent: by customer and day, over a window of 30 days that slides by a day, and by day over all customers.
CREATE SOURCE payment (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, event_id TEXT,
  outcome TEXT, amount_minor BIGINT, currency TEXT, invoice_id TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '1 hour'
) WITH (topic = 'payment.v1', format = 'json', key = 'tenant, subscriber_id', dedup = '1 day');

CREATE MATERIALIZED VIEW revenue_customer_day AS
SELECT tenant, subscriber_id, window_start, window_end, SUM(amount_minor) AS revenue_minor, COUNT(*) AS lines
FROM TUMBLE(payment, event_time, INTERVAL '1 day')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW revenue_customer_30d AS
SELECT tenant, subscriber_id, window_start, window_end, SUM(amount_minor) AS revenue_minor, COUNT(*) AS lines
FROM HOP(payment, event_time, INTERVAL '1 day', INTERVAL '30 days')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;

-- Level 2: it reads the rows of the first view and not the events.
CREATE MATERIALIZED VIEW revenue_day AS
SELECT tenant, window_start, window_end, SUM(revenue_minor) AS revenue_minor, SUM(lines) AS lines
FROM TUMBLE(revenue_customer_day, window_end, INTERVAL '1 day')
GROUP BY tenant, window_start, window_end
EMIT ON WINDOW CLOSE;
