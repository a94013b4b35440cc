-- output: w
-- order: matters
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v DOUBLE,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, robust_z(v, 10) AS z, percent_rank(v, 5) AS rank FROM pay;
