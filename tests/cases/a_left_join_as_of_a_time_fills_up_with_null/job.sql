-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE TABLE plans (tenant TEXT, sub TEXT, t TIMESTAMPTZ, price BIGINT, WATERMARK FOR t AS t - INTERVAL '0 seconds')
WITH (topic = 'plans.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT s.tenant AS tenant, s.sub AS sub, s.t AS t, s.v AS v, plans.price AS price
FROM pay s LEFT JOIN plans FOR SYSTEM_TIME AS OF s.t ON s.tenant = plans.tenant AND s.sub = plans.sub;
