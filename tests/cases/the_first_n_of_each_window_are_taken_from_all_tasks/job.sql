-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT, region TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW ten AS
SELECT tenant, sub, region, window_start, window_end, sum(v) AS total
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, region, window_start, window_end
EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW w AS
SELECT region, window_start, window_end, rn, sub, total
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY region, window_start, window_end ORDER BY total DESC, sub) AS rn FROM ten) AS ranked
WHERE rn = 1;
