-- output: w
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant AS operator, sub AS subscriber, t AS at, v AS value FROM pay;
