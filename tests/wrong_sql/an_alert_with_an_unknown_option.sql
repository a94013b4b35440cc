-- expect: 10:7: there is no option `room` here; options are `severity`, `for`, `min_hold`, `flapping`, `inhibited_by`, `commands`, `rooms`, `summary`, `score`, `kind`
-- hint: did you mean `rooms`?
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW totals AS
SELECT tenant, subscriber_id, SUM(bytes_down) AS bytes, MAX(event_time) AS seen_at FROM usage GROUP BY tenant, subscriber_id;
CREATE ALERT a ON totals RAISE WHEN bytes > 5
WITH (room = 'admin:{tenant}');
