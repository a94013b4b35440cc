-- output: w
-- compare: final
-- partitions: 2 4
CREATE TABLE customer (tenant TEXT, sub TEXT, t TIMESTAMPTZ, plan TEXT, v BIGINT, WATERMARK FOR t AS t)
WITH (topic = 'customer.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, plan, sum(v) AS total FROM customer GROUP BY tenant, plan;
