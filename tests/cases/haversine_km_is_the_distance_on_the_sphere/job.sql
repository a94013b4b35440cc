-- output: w
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, lat DOUBLE, lon DOUBLE,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, haversine_km(prev(lat), prev(lon), lat, lon) AS km FROM pay;
