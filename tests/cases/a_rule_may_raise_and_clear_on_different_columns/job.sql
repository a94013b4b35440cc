-- output: alerts of risky
-- columns: action, revision, entity.id, severity, resolved_at
-- cut: 1
-- compare: cut
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, v BIGINT, ok BOOLEAN,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW risky AS SELECT tenant, sub, last_value(v) AS score, last_value(ok) AS ok FROM pay GROUP BY tenant, sub;
CREATE ALERT hot ON risky RAISE WHEN score >= 70 CLEAR WHEN ok WITH (severity = 'error', summary = '{sub} at {score}', rooms = 'admin:{tenant}');
