-- expect: 10:31: `prev` looks at the rows before of the same key, and cannot stand here
-- hint: it stands in the select list or the `WHERE` of a view without `GROUP BY` and `JOIN` over rows that are never taken back, and not inside of itself
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW totals AS
SELECT tenant, subscriber_id, SUM(bytes_down) AS bytes, MAX(event_time) AS seen_at FROM usage GROUP BY tenant, subscriber_id;
CREATE MATERIALIZED VIEW v AS
SELECT tenant, subscriber_id, prev(bytes) AS before FROM totals;
