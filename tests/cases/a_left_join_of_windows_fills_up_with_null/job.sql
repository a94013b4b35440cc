-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE SOURCE refund (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'refund.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW p AS
SELECT tenant, sub, window_start, window_end, sum(v) AS paid
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW r AS
SELECT tenant, sub, window_start, window_end, sum(v) AS back
FROM TUMBLE(refund, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, window_start, window_end, paid, back FROM p LEFT JOIN r USING (tenant, sub, window_start, window_end);
