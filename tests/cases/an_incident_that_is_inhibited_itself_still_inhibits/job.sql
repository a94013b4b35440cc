-- output: alerts of drops_high$alerts
-- now: 2026-01-01T01:00:00Z
-- compare: rows
-- columns: entity.id, revision, action, state, score, last_seen_at, inhibited_by.rule, rooms
CREATE SOURCE region_health (tenant TEXT, region TEXT, t TIMESTAMPTZ, up BIGINT,
  WATERMARK FOR t AS t - INTERVAL '1 second')
WITH (topic = 'region_region.v1', key = 'tenant, region');
CREATE SOURCE health (tenant TEXT, node_id TEXT, region TEXT, t TIMESTAMPTZ, up BIGINT,
  WATERMARK FOR t AS t - INTERVAL '1 second')
WITH (topic = 'health.v1', key = 'tenant, node_id');
CREATE SOURCE drops (tenant TEXT, subscriber_id TEXT, t TIMESTAMPTZ, node_id TEXT, region TEXT, n BIGINT,
  WATERMARK FOR t AS t - INTERVAL '1 second')
WITH (topic = 'drops.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW regions AS
SELECT tenant, region, last_value(up) AS up FROM region_health GROUP BY tenant, region
EMIT CHANGES EVERY INTERVAL '1 second';
CREATE MATERIALIZED VIEW node_health AS
SELECT tenant, node_id, region, last_value(up) AS up FROM health GROUP BY tenant, node_id, region
EMIT CHANGES EVERY INTERVAL '1 second';
CREATE MATERIALIZED VIEW sub_drops AS
SELECT tenant, subscriber_id, last_value(node_id) AS node_id, last_value(region) AS region, last_value(n) AS score FROM drops GROUP BY tenant, subscriber_id
EMIT CHANGES EVERY INTERVAL '1 second';
CREATE ALERT region_down ON regions RAISE WHEN up = 0;
CREATE ALERT node_down ON node_health RAISE WHEN up = 0 WITH (inhibited_by = 'region_down', rooms = 'noc:{tenant}');
CREATE ALERT drops_high ON sub_drops RAISE WHEN score > 5
  WITH (rooms = 'sub:{tenant}:{subscriber_id}', summary = '{score} drops', inhibited_by = 'node_down');
