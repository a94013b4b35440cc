-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t)
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW grown AS
SELECT tenant, window_start, window_end, sum(v) AS total
FROM CUMULATE(pay, t, INTERVAL '10 seconds', INTERVAL '30 seconds')
GROUP BY tenant, window_start, window_end
EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW w AS
SELECT tenant, window_start, window_end, total, rn
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant, window_start, window_end ORDER BY total) AS rn FROM grown) AS ranked
WHERE rn <= 1
EMIT ON WINDOW CLOSE;
