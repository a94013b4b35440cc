-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, note TEXT, v BIGINT, f DOUBLE,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, array_agg(note ORDER BY v) AS notes, array_agg(DISTINCT note ORDER BY note) AS kinds, array_agg(f ORDER BY v) AS f, array_agg(t) AS times
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
