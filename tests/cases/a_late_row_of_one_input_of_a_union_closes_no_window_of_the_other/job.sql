-- output: w
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t)
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE SOURCE refund (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t)
WITH (topic = 'refund.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW both_kinds AS SELECT tenant, sub, t, v FROM pay UNION ALL SELECT tenant, sub, t, v FROM refund;
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, sum(v) AS total
FROM HOP(both_kinds, t, INTERVAL '10 seconds', INTERVAL '20 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
