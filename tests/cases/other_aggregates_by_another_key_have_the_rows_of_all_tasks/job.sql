-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v DOUBLE, region TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT region, window_start, window_end, median(v) AS middle, count(DISTINCT v) AS kinds, bool_or(v > 8) AS high
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY region, window_start, window_end
EMIT ON WINDOW CLOSE;
