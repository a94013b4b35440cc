-- output: w
-- cut: 1
CREATE TABLE customer (tenant TEXT, sub TEXT, t TIMESTAMPTZ, plan TEXT, v BIGINT, WATERMARK FOR t AS t)
WITH (topic = 'customer.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sum(v) AS total, count(*) AS n, avg(v) AS mean FROM customer GROUP BY tenant;
