-- output: w
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, count(*) FILTER (WHERE v > 0) AS n, sum(v) FILTER (WHERE v > 0) AS total, min(v) FILTER (WHERE v > 0) AS least, avg(v) FILTER (WHERE v > 0) AS mean, last_value(v) FILTER (WHERE v > 0) AS tail, count(*) AS rows
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
