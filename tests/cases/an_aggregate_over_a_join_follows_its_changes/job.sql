-- output: w
-- compare: final
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE TABLE plans (tenant TEXT, sub TEXT, t TIMESTAMPTZ, price BIGINT, WATERMARK FOR t AS t)
WITH (topic = 'plans.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW last AS SELECT tenant, sub, last_value(v) AS v FROM pay GROUP BY tenant, sub;
CREATE MATERIALIZED VIEW priced AS SELECT tenant, sub, v, price FROM last JOIN plans USING (tenant, sub);
CREATE MATERIALIZED VIEW w AS SELECT tenant, price, count(*) AS n, sum(v) AS total FROM priced GROUP BY tenant, price;
