-- output: w
-- partitions: 2 4
CREATE FUNCTION ratio(a DOUBLE, b DOUBLE) RETURNS DOUBLE AS 'a / nullif(b, 0)';
CREATE FUNCTION minus(a BIGINT, b BIGINT) RETURNS BIGINT AS 'a - b * 2';
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, a BIGINT, b BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, minus(b, a) AS swapped, minus(a, a + b) AS sums FROM pay;
