-- output: w
-- order: matters
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, note TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, string_agg(note, '') AS word
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
