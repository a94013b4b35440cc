-- output: w
-- order: matters
-- compare: final
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, note TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, string_agg(note, ',') AS words FROM pay GROUP BY tenant;
