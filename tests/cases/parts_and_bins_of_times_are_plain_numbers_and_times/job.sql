-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, date_bin(INTERVAL '15 minutes', t) AS quarter, extract(dow FROM t) AS weekday, date_part('doy', t) AS day, to_char(t, '%d.%m.%Y %H:%M') AS said, t + INTERVAL '1 day 2 hours' AS later, CAST(t AS DATE) AS date FROM pay;
