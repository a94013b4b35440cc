-- output: w
-- partitions: 2 4
CREATE FUNCTION ratio(a DOUBLE, b DOUBLE) RETURNS DOUBLE AS 'a / nullif(b, 0)';
CREATE FUNCTION percent(part DOUBLE, whole DOUBLE) RETURNS DOUBLE AS 'round(100 * ratio(part, whole), 1)';
CREATE FUNCTION grade(p DOUBLE) RETURNS TEXT AS 'CASE WHEN p >= 50 THEN ''half'' WHEN p IS NULL THEN ''none'' ELSE ''less'' END';
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, u DOUBLE, v DOUBLE,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, percent(u, v) AS p, grade(percent(u, v)) AS g FROM pay;
