-- output: w
-- compare: rows
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, sum(v) AS total, count(*) AS n FROM pay GROUP BY tenant, sub EMIT CHANGES EVERY INTERVAL '10 seconds';
