-- output: w
-- compare: final
-- partitions: 2 4
CREATE TABLE customer (tenant TEXT, sub TEXT, t TIMESTAMPTZ, plan TEXT, WATERMARK FOR t AS t)
WITH (topic = 'customer.v1', format = 'json', key = 'tenant, sub');
CREATE TABLE plans (tenant TEXT, plan TEXT, t TIMESTAMPTZ, price BIGINT, WATERMARK FOR t AS t)
WITH (topic = 'plans.v1', format = 'json', key = 'tenant, plan', broadcast = 'true');
CREATE MATERIALIZED VIEW w AS SELECT c.tenant AS tenant, c.sub AS sub, c.plan AS plan, p.price AS price FROM customer c LEFT JOIN plans p ON p.tenant = c.tenant AND p.plan = c.plan;
