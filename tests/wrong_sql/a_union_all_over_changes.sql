-- expect: 10:47: `UNION ALL` needs rows that are never taken back, and `totals` emits changes
-- hint: unite its input, or let it `EMIT ON WINDOW CLOSE`
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW totals AS
SELECT tenant, subscriber_id, SUM(bytes_down) AS bytes, MAX(event_time) AS seen_at FROM usage GROUP BY tenant, subscriber_id;
CREATE MATERIALIZED VIEW v AS
SELECT tenant, bytes_down AS bytes FROM usage UNION ALL SELECT tenant, bytes FROM totals;
