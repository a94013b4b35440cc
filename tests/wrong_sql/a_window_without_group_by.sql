-- expect: 8:1: a window function needs `GROUP BY`
-- hint: write `GROUP BY …, window_start, window_end`
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, bytes_down FROM TUMBLE(usage, event_time, INTERVAL '1 minute');
