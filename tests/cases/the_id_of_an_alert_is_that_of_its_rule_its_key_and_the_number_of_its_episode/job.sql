-- output: alerts of risky
-- columns: alert_id, revision, rule_version, action, entity.id
-- cut: 1
-- compare: cut
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW risky AS SELECT tenant, sub, last_value(v) AS score FROM pay GROUP BY tenant, sub;
CREATE ALERT hot ON risky RAISE WHEN score >= 70 CLEAR WHEN score < 65 WITH (severity = 'critical', summary = '{sub} at {score}', rooms = 'admin:{tenant}');
