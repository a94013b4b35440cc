-- output: v2
-- now: 2024-06-01T00:00:00Z
-- partitions: 2 4
-- compare: final
CREATE SOURCE b (tenant TEXT, sub TEXT, t TIMESTAMPTZ, units BIGINT, region TEXT,
  WATERMARK FOR t AS t)
WITH (topic = 'b.v1', format = 'json', key = 'tenant, sub');
CREATE TABLE p (tenant TEXT, sub TEXT, t TIMESTAMPTZ, region TEXT,
  WATERMARK FOR t AS t)
WITH (topic = 'p.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW v1 AS
SELECT region, median(units) AS c1_0
FROM b
GROUP BY region
EMIT CHANGES;
CREATE MATERIALIZED VIEW v2 AS
SELECT l.tenant AS l_tenant, l.sub AS l_sub
FROM p l LEFT JOIN v1 r ON l.region = r.region
EMIT CHANGES;
