-- output: w
-- compare: final
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
WITH n AS (SELECT tenant, sub, count(*) AS n FROM pay GROUP BY tenant, sub),
  high AS (SELECT tenant, sub, max(v) AS most FROM pay WHERE v > 4 GROUP BY tenant, sub)
SELECT tenant, sub, n, most FROM n LEFT JOIN high USING (tenant, sub);
