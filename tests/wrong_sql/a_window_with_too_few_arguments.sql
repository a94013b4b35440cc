-- expect: 9:6: expected `TUMBLE(relation, time, size [, offset])`, found 2 arguments
-- hint: for example `TUMBLE(usage, event_time, INTERVAL '1 minute')`
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS n
FROM TUMBLE(usage, event_time)
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;
