-- output: w
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, stddev_pop(v) AS sd, count(DISTINCT v) AS kinds, median(v) AS middle, bool_or(v > 8) AS high, approx_distinct(v) AS about
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
