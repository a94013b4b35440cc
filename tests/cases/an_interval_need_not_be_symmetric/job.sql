-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE SOURCE refund (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'refund.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT p.tenant AS tenant, p.sub AS sub, p.t AS t, p.v AS paid, r.t AS at, r.v AS back
FROM pay p JOIN refund r
ON p.tenant = r.tenant AND p.sub = r.sub AND r.t BETWEEN p.t AND p.t + INTERVAL '5 seconds';
