-- output: w
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, stddev_pop(v) AS sd, count(DISTINCT v) AS kinds, approx_percentile_cont(v, 0.5) AS p50
FROM HOP(pay, t, INTERVAL '10 seconds', INTERVAL '20 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
