-- output: w
-- compare: final
-- partitions: 2 4
CREATE TABLE plans (tenant TEXT, sub TEXT, t TIMESTAMPTZ, price BIGINT, WATERMARK FOR t AS t)
WITH (topic = 'plans.v1', format = 'json', key = 'tenant, sub');
CREATE TABLE terms (tenant TEXT, sub TEXT, t TIMESTAMPTZ, months BIGINT, WATERMARK FOR t AS t)
WITH (topic = 'terms.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, price, months FROM plans JOIN terms USING (tenant, sub);
