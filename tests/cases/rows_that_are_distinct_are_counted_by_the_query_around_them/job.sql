-- output: w
-- compare: final
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT, region TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, count(*) AS pairs
FROM (SELECT DISTINCT tenant, sub, region FROM pay) AS seen
GROUP BY tenant;
