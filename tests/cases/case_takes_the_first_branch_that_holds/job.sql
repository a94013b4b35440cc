-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, CASE WHEN v > 2 THEN 'many' WHEN v > 1 THEN 'two' WHEN v IS NULL THEN 'unknown' END AS size, CASE v WHEN 1 THEN 'one' WHEN 3 THEN 'three' ELSE 'other' END AS name FROM pay;
