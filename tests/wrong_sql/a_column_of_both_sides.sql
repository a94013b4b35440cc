-- expect: 12:18: column `subscriber_id` stands in more than one relation
-- hint: write `relation.subscriber_id`
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW totals AS
SELECT tenant, subscriber_id, SUM(bytes_down) AS bytes, MAX(event_time) AS seen_at FROM usage GROUP BY tenant, subscriber_id;
CREATE TABLE subscriber (tenant TEXT, subscriber_id TEXT, plan_id TEXT, nps INT)
WITH (topic = 'subscriber.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT t.tenant, subscriber_id FROM totals t JOIN subscriber s ON t.tenant = s.tenant AND t.subscriber_id = s.subscriber_id;
