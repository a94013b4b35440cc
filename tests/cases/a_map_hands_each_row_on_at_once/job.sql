-- output: w
-- partitions: 1 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT, note TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS
SELECT tenant, sub, t, coalesce(note, 'none') AS note, nullif(v, 3) AS v, upper(sub) || '!' AS shout, CASE WHEN v > 4 THEN 'big' WHEN v IS NULL THEN 'unknown' ELSE 'small' END AS size
FROM pay WHERE sub <> 'y' OR v > 4;
