-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, v / 2 AS half, v % 3 AS rest, v / 2.0 AS exact, round(v / 2.0) AS rounded, floor(v / 2.0) AS down, abs(v) AS size FROM pay;
