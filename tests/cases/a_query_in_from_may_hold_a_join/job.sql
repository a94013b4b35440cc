-- output: w
-- compare: final
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE TABLE plans (tenant TEXT, sub TEXT, t TIMESTAMPTZ, price BIGINT, WATERMARK FOR t AS t)
WITH (topic = 'plans.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, price, count(*) AS subs, sum(v) AS total
FROM (SELECT l.tenant AS tenant, l.sub AS sub, l.v AS v, p.price AS price
  FROM (SELECT tenant, sub, last_value(v) AS v FROM pay GROUP BY tenant, sub) AS l
  JOIN plans p ON p.tenant = l.tenant AND p.sub = l.sub) AS priced
GROUP BY tenant, price;
