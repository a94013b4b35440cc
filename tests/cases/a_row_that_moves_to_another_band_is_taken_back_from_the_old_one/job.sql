-- output: bands
-- compare: final
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW score AS
SELECT tenant, sub, last_value(v) AS v FROM pay GROUP BY tenant, sub;
CREATE MATERIALIZED VIEW banded AS
SELECT tenant, sub, CASE WHEN v >= 70 THEN 'high' WHEN v >= 40 THEN 'medium' ELSE 'low' END AS band FROM score;
CREATE MATERIALIZED VIEW bands AS
SELECT tenant, band, count(*) AS n FROM banded GROUP BY tenant, band;
