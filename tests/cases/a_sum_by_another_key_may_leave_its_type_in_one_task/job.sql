-- output: w
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, region TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, region, window_start, window_end, sum(v) AS total, count(*) AS n
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, region, window_start, window_end
EMIT ON WINDOW CLOSE;
