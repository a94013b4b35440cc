-- output: w
-- compare: final
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW ten AS
SELECT tenant, sub, window_start, window_end, sum(v) AS total
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE WITH (allowed_lateness = '20s');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, count(*) AS windows, sum(total) AS total, sum(revision) AS corrections FROM ten GROUP BY tenant, sub;
