-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT, region TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT region, window_start, window_end, sum(v) AS total, min(v) AS least, count(*) AS n
FROM CUMULATE(pay, t, INTERVAL '10 seconds', INTERVAL '20 seconds')
GROUP BY region, window_start, window_end
EMIT ON WINDOW CLOSE;
