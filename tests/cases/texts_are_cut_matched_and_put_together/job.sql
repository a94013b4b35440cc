-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, note TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, upper(note) || '!' AS shout, split_part(note, '-', 2) AS part, note LIKE 'a%' AS begins, note ~ '^[a-z]+-[0-9]+$' AS formed, regexp_replace(note, '[0-9]+', '#') AS hidden, length(note) AS size, concat_ws('/', sub, note, NULL) AS path FROM pay;
