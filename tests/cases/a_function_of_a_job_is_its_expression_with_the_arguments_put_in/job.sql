-- output: w
-- partitions: 2 4
CREATE FUNCTION ratio(a DOUBLE, b DOUBLE) RETURNS DOUBLE AS 'a / nullif(b, 0)';
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, u DOUBLE, v DOUBLE,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, ratio(u, v) AS r, ratio(u + 1, v * 2) AS s FROM pay WHERE ratio(u, v) IS NULL OR ratio(u, v) < 5;
