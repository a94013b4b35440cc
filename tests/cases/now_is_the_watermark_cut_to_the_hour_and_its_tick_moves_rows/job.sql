-- output: w
-- cut: 1
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW last AS SELECT tenant, sub, last_value(t) AS seen FROM pay GROUP BY tenant, sub;
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, now() AS at, now() - seen > INTERVAL '1 hour' AS silent FROM last;
