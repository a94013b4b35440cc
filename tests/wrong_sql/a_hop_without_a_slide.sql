-- expect: 9:6: expected `HOP(relation, time, slide, size [, offset])`, found 3 arguments
-- hint: for example `HOP(usage, event_time, INTERVAL '1 minute', INTERVAL '1 hour')`
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS n
FROM HOP(usage, event_time, INTERVAL '1 hour')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;
