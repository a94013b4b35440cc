-- output: alerts of risky
-- columns: action, rule, revision, entity.id, severity, starts_at, resolved_at
-- cut: 1
-- compare: cut
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW risky AS SELECT tenant, sub, last_value(v) AS score FROM pay GROUP BY tenant, sub;
CREATE ALERT hot ON risky RAISE WHEN score >= 70 CLEAR WHEN score < 65 WITH (severity = 'critical', summary = '{sub}', rooms = 'admin:{tenant}');
CREATE ALERT warm ON risky RAISE WHEN score >= 40 CLEAR WHEN score < 30 WITH (severity = 'info', summary = '{sub}', rooms = 'admin:{tenant}');
