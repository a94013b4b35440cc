-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, note TEXT, v BIGINT, f DOUBLE,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, window_start, array_agg(sub ORDER BY v, sub) AS subs, array_agg(v ORDER BY v) FILTER (WHERE v > 2) AS great
FROM HOP(pay, t, INTERVAL '5 seconds', INTERVAL '10 seconds')
GROUP BY tenant, window_start, window_end
EMIT ON WINDOW CLOSE;
