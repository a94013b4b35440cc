-- output: w
-- compare: final
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, avg(total) AS mean, count(*) AS subs
FROM (SELECT tenant, sub, sum(v) AS total FROM pay GROUP BY tenant, sub) AS by_sub
GROUP BY tenant;
