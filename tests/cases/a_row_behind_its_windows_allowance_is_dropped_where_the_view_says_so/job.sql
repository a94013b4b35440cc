-- output: w
-- counts: late=1
-- compare: rows
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w WITH (late = 'drop', allowed_lateness = '20s') AS
SELECT tenant, sub, window_start, window_end, sum(v) AS total
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
