-- output: w
-- counts: future=2
-- now: 2024-01-01T00:01:40Z
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub', max_skew = '2 seconds');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, sum(v) AS total, count(*) AS n
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
