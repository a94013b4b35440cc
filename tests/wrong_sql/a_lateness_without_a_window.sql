-- expect: 9:20: rows are late for windows only
-- hint: leave `late` and `allowed_lateness` out
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, COUNT(*) AS n FROM usage GROUP BY tenant
EMIT CHANGES WITH (allowed_lateness = '1m');
