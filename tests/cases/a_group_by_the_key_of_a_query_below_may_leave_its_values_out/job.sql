-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, region TEXT,
  WATERMARK FOR t AS t)
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, region, max(n) AS most
FROM (SELECT tenant, region, count(*) AS n FROM pay GROUP BY tenant, region) AS counted
GROUP BY tenant, region;
