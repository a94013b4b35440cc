-- output: w
-- compare: final
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, count(*) AS n FROM pay GROUP BY tenant, sub HAVING max(t) > now() - INTERVAL '1 hour';
