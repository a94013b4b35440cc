-- output: w
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t)
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, sum(v) AS total
FROM HOP(pay, t, INTERVAL '10 seconds', INTERVAL '20 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT CHANGES EVERY INTERVAL '30 seconds';
