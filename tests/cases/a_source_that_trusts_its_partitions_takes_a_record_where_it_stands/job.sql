-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, node BIGINT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, node', trust_partition = 'true');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, node, window_end, sum(v) AS total
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, node, window_end
EMIT ON WINDOW CLOSE;
