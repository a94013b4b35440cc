-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, region TEXT,
  WATERMARK FOR t AS t)
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
WITH narrow AS (SELECT tenant, sub, t, region FROM pay)
SELECT tenant, sub, region, count(*) AS n FROM narrow GROUP BY tenant, sub, region;
