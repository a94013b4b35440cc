-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE SOURCE refund (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'refund.v1', format = 'json', key = 'tenant, sub');
CREATE SOURCE gift (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'gift.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW flow AS SELECT tenant, sub, t, v FROM pay UNION ALL SELECT tenant, sub, t, -v FROM refund UNION ALL SELECT tenant, sub, t, v * 10 FROM gift;
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, window_start, window_end, sum(v) AS total, count(*) AS n
FROM TUMBLE(flow, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
