-- expect: 10:7: there is no relation `command`; before it stand `drops`, `health`, `nodes`, `subs`
CREATE SOURCE health (tenant TEXT, node_id TEXT, t TIMESTAMPTZ, up BIGINT, WATERMARK FOR t AS t)
WITH (topic = 'health.v1', key = 'tenant, node_id');
CREATE SOURCE drops (tenant TEXT, sub TEXT, t TIMESTAMPTZ, n BIGINT, WATERMARK FOR t AS t)
WITH (topic = 'drops.v1', key = 'tenant, sub');
CREATE MATERIALIZED VIEW nodes AS SELECT tenant, node_id, up FROM health;
CREATE MATERIALIZED VIEW subs AS SELECT tenant, sub, n FROM drops;
CREATE ALERT node_down ON nodes RAISE WHEN up = 0;
CREATE ALERT a ON subs RAISE WHEN n > 5
WITH (commands = 'command');
