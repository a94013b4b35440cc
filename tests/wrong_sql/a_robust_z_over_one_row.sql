-- expect: 8:16: `robust_z` keeps a constant number of rows between 2 and 10000
-- hint: for example `robust_z(x, 100)`
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, robust_z(bytes_down, 1) AS z FROM usage;
