-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, date_trunc('hour', t) AS h, date_trunc('day', t) AS d, date_trunc('week', t) AS w, date_trunc('month', t) AS m, date_trunc('quarter', t) AS q, date_trunc('year', t) AS y FROM pay;
