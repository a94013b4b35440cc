-- output: w
-- compare: final
-- partitions: 2 4
CREATE TABLE customer (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v DOUBLE, WATERMARK FOR t AS t)
WITH (topic = 'customer.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sum(v) AS total, avg(v) AS mean FROM customer GROUP BY tenant;
