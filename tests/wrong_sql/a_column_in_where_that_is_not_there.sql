-- expect: 9:7: there is no column `regoin` in `usage`; columns are `bytes_down`, `bytes_up`, `event_id`, `event_time`, `price`, `region`, `subscriber_id`, `tenant`
-- hint: did you mean `region`?
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant FROM usage
WHERE regoin = 'north';
