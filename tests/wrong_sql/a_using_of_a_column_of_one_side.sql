-- expect: 11:88: there is no column `plan_id` in `totals`; columns are `bytes`, `seen_at`, `subscriber_id`, `tenant`
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW totals AS
SELECT tenant, subscriber_id, SUM(bytes_down) AS bytes, MAX(event_time) AS seen_at FROM usage GROUP BY tenant, subscriber_id;
CREATE TABLE subscriber (tenant TEXT, subscriber_id TEXT, plan_id TEXT, nps INT)
WITH (topic = 'subscriber.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, subscriber_id FROM totals JOIN subscriber USING (tenant, subscriber_id, plan_id);
