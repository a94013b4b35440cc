-- The load of a region by the hour, and the demand factor: the share of its last 28 days (672 hours) that were not busier.
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, region TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE MATERIALIZED VIEW load_1h AS
SELECT tenant, region, window_start, window_end, SUM(bytes_down) AS bytes, COUNT(*) AS records
FROM TUMBLE(usage, event_time, INTERVAL '1 hour')
GROUP BY tenant, region, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW demand_factor AS
SELECT tenant, region, window_start, window_end, bytes, records, percent_rank(CAST(bytes AS DOUBLE), 672) AS demand
FROM load_1h;
