-- output: alerts of drops_high$alerts
-- now: 2026-01-01T01:00:00Z
-- compare: rows
-- columns: entity.id, revision, action, state, score, last_seen_at, acknowledged, silenced, rooms
CREATE SOURCE drops (tenant TEXT, subscriber_id TEXT, t TIMESTAMPTZ, node_id TEXT, n BIGINT,
  WATERMARK FOR t AS t - INTERVAL '1 second')
WITH (topic = 'drops.v1', key = 'tenant, subscriber_id');
CREATE SOURCE commands (tenant TEXT, action TEXT, t TIMESTAMPTZ, alert_id TEXT, rule TEXT, entity TEXT, until TIMESTAMPTZ, by TEXT, comment TEXT,
  WATERMARK FOR t AS t)
WITH (topic = 'alert-command.v1', key = 'tenant');
CREATE MATERIALIZED VIEW sub_drops AS
SELECT tenant, subscriber_id, last_value(node_id) AS node_id, last_value(n) AS score FROM drops GROUP BY tenant, subscriber_id
EMIT CHANGES EVERY INTERVAL '1 second';
CREATE ALERT drops_high ON sub_drops RAISE WHEN score > 5
  WITH (rooms = 'sub:{tenant}:{subscriber_id}', summary = '{score} drops', commands = 'commands');
