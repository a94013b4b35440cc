-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, median(v) FILTER (WHERE v > 2) AS middle, bool_or(v > 0) FILTER (WHERE v > 2) AS some, bit_or(v) FILTER (WHERE v > 2) AS bits, count(DISTINCT v) FILTER (WHERE v > 2) AS kinds, max(v) FILTER (WHERE v > 2) AS most
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
