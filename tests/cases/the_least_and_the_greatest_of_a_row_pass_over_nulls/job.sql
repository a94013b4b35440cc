-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, u BIGINT, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, greatest(u, v) AS most, least(u, v, 5) AS least, coalesce(u, v, 0) AS one, nullif(u, v) AS unless FROM pay;
