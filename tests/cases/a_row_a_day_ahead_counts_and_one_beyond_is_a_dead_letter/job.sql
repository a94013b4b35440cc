-- output: w
-- counts: future=1 dead=1
-- now: 2024-01-01T12:00:00Z
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, sum(v) AS total, count(*) AS n
FROM TUMBLE(pay, t, INTERVAL '1 day')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
