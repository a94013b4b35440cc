-- output: alerts of drops_high$alerts
-- now: 2026-01-01T01:00:00Z
-- compare: rows
-- columns: entity.id, revision, action, state, score, last_seen_at, inhibited_by.rule, rooms
-- partitions: 2 4
CREATE SOURCE health (tenant TEXT, node_id TEXT, t TIMESTAMPTZ, up BIGINT,
  WATERMARK FOR t AS t - INTERVAL '1 second')
WITH (topic = 'health.v1', key = 'tenant, node_id');
CREATE SOURCE drops (tenant TEXT, subscriber_id TEXT, t TIMESTAMPTZ, node_id TEXT, n BIGINT,
  WATERMARK FOR t AS t - INTERVAL '1 second')
WITH (topic = 'drops.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW node_health AS
SELECT tenant, node_id, last_value(up) AS up FROM health GROUP BY tenant, node_id
EMIT CHANGES EVERY INTERVAL '1 second';
CREATE MATERIALIZED VIEW sub_drops AS
SELECT tenant, subscriber_id, last_value(node_id) AS node_id, last_value(n) AS score FROM drops GROUP BY tenant, subscriber_id
EMIT CHANGES EVERY INTERVAL '1 second';
CREATE ALERT node_down ON node_health RAISE WHEN up = 0 WITH (severity = 'critical', rooms = 'noc:{tenant}');
CREATE ALERT drops_high ON sub_drops RAISE WHEN score > 5
  WITH (rooms = 'sub:{tenant}:{subscriber_id}', summary = '{score} drops', inhibited_by = 'node_down');
