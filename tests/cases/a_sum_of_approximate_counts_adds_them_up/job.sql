-- output: w
-- partitions: 1 2 4
CREATE SOURCE login (tenant TEXT, sub TEXT, t TIMESTAMPTZ, device TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'login.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW devices AS
SELECT tenant, sub, window_start, window_end, approx_distinct(device) AS n
FROM TUMBLE(login, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW w AS
SELECT tenant, window_start, window_end, sum(n) AS devices, max(n) AS most
FROM devices
GROUP BY tenant, window_start, window_end
EMIT ON WINDOW CLOSE;
