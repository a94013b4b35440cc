-- output: w
-- order: matters
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, v, prev(v) AS before, v - prev(v) AS step FROM pay;
