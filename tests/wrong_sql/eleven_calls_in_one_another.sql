-- expect: 8:59: nested too deeply: at most 10 calls of functions are allowed inside of one another
-- hint: compute parts of it in a subquery
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(bytes_down))))))))))) AS x FROM usage;
