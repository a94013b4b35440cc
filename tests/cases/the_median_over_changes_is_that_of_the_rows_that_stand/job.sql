-- output: w
-- compare: final
-- partitions: 2 4
CREATE TABLE customer (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v DOUBLE, WATERMARK FOR t AS t)
WITH (topic = 'customer.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, median(v) AS middle, bool_and(v > 1) AS every FROM customer GROUP BY tenant;
