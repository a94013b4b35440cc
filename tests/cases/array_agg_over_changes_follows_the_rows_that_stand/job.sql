-- output: lists
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, note TEXT, v BIGINT, f DOUBLE,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW newest AS SELECT tenant, sub, last_value(note) AS note, max(v) AS v FROM pay GROUP BY tenant, sub;
CREATE MATERIALIZED VIEW lists AS SELECT tenant, array_agg(note ORDER BY sub) AS notes, array_agg(v ORDER BY v) AS v FROM newest GROUP BY tenant;
