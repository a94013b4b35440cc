-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_end, rate + 1 AS rate
FROM (SELECT tenant, sub, window_end, total / n AS rate
  FROM (SELECT tenant, sub, window_start, window_end, sum(v) AS total, count(*) AS n FROM TUMBLE(pay, t, INTERVAL '10 seconds') GROUP BY tenant, sub, window_start, window_end) AS ten
  WHERE n > 1) AS rates
WHERE rate > 3
EMIT ON WINDOW CLOSE;
