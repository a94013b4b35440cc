-- output: alerts of risky
-- columns: action, revision, rule, tenant, entity.type, entity.id, severity, score, window.start, window.end, summary
-- cut: 1
-- compare: cut
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW risky AS
SELECT tenant, sub, window_start, window_end, sum(v) AS score
FROM TUMBLE(pay, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
CREATE ALERT hot ON risky RAISE WHEN score >= 70 WITH (summary = '{sub} at {score}', rooms = 'admin:{tenant}');
