-- expect: 9:19: `v` has no key: an alert is about one key of a view
-- hint: select the key of its input in the view
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT region, bytes_down FROM usage;
CREATE ALERT a ON v RAISE WHEN bytes_down > 5;
