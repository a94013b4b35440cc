-- expect: 8:58: `ROLLUP`, `CUBE` and `GROUPING SETS` are not part of this version
-- hint: write one view for each grouping
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, region, COUNT(*) AS n FROM usage GROUP BY ROLLUP (tenant, region);
