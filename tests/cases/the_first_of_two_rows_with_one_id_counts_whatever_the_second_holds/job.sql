-- output: w
-- order: matters
-- counts: duplicate=3
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, event_id TEXT, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub', dedup = '1 minute');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, event_id, v FROM pay;
