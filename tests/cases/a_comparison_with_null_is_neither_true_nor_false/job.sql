-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, v = 3 AS same, v <> 3 AS other, NOT (v > 1) AS small, v IN (1, 3) AS listed, v IS DISTINCT FROM 3 AS differs, v > 1 OR t IS NOT NULL AS either FROM pay;
