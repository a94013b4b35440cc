-- output: w
-- order: matters
-- compare: final
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT, note TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, note, v, rn
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant, sub ORDER BY v DESC) AS rn FROM pay) AS ranked
WHERE rn <= 3;
