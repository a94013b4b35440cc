-- expect: 9:1: a window function needs `window_start` or `window_end` among the columns of `GROUP BY`
-- hint: write `GROUP BY …, window_start, window_end`
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, subscriber_id, COUNT(*) AS n FROM SESSION(usage, event_time, INTERVAL '5 minutes')
GROUP BY tenant, subscriber_id EMIT ON WINDOW CLOSE;
