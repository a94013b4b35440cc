-- output: w
-- compare: final
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v DOUBLE, region TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT region, count(*) AS n, sum(v) AS total, max(v) AS most FROM pay GROUP BY region;
