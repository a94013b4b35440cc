-- output: w
-- cut: 1
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW last AS SELECT tenant, sub, last_value(v) AS v FROM pay GROUP BY tenant, sub;
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, v > 2 AS high FROM last;
