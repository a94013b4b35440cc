-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, doc TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, doc ->> 'name' AS name, doc -> 'tags' ->> 1 AS second, doc -> 'name' AS quoted FROM pay WHERE doc ->> 'name' <> 'no';
