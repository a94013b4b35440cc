-- output: w
-- compare: final
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, date_trunc('day', t AT TIME ZONE 'Europe/Berlin') AS day, sum(v) AS total FROM pay GROUP BY tenant, sub, date_trunc('day', t AT TIME ZONE 'Europe/Berlin');
