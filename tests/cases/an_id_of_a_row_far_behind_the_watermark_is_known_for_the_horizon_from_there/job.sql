-- output: w
-- counts: duplicate=1
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, event_id TEXT, v BIGINT,
  WATERMARK FOR t AS t)
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub', dedup = '1 minute');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, v FROM pay;
