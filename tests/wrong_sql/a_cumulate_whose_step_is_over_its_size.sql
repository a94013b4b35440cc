-- expect: 9:43: the step of `CUMULATE` is 2 hours, which does not divide its size of 1 hour
-- hint: the step comes first and the size is a multiple of it
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS n
FROM CUMULATE(usage, event_time, INTERVAL '2 hours', INTERVAL '1 hour')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;
