-- output: alerts of risky
-- columns: action, revision, entity.type, entity.id, severity, score, previous, starts_at, last_seen_at, resolved_at, summary
-- cut: 1
-- compare: cut
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW risky AS SELECT tenant, sub, t, v AS score FROM pay;
CREATE ALERT hot ON risky RAISE WHEN score >= 70 WITH (severity = 'critical', min_hold = '60s', summary = '{sub} at {score}', rooms = 'admin:{tenant}');
