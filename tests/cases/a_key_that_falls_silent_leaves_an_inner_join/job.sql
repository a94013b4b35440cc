-- output: w
-- compare: final
-- partitions: 1
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW last AS SELECT tenant, sub, last_value(v) AS v FROM pay GROUP BY tenant, sub;
CREATE MATERIALIZED VIEW recent AS
SELECT tenant, sub, window_start, window_end, sum(v) AS total
FROM HOP(pay, t, INTERVAL '10 seconds', INTERVAL '30 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT CHANGES;
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, v, total FROM last JOIN recent USING (tenant, sub);
