-- expect: 10:28: option `late` is `keep`, expected one of `side`, `drop`
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS n
FROM TUMBLE(usage, event_time, INTERVAL '1 minute')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE WITH (late = 'keep');
