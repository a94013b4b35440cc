-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
WITH big AS (SELECT tenant, sub, t, v FROM pay WHERE v > 1),
  doubled AS (SELECT tenant, sub, t, v * 2 AS v FROM big WHERE v < 9)
SELECT tenant, sub, t, v + 1 AS v FROM doubled;
