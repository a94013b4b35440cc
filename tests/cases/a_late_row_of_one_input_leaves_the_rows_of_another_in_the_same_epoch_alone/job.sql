-- output: v2
-- now: 2024-06-01T00:00:00Z
-- compare: rows
CREATE SOURCE a (tenant TEXT, sub TEXT, t TIMESTAMPTZ, units BIGINT, price DOUBLE, amount DECIMAL(12,2), region TEXT, flag BOOLEAN,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'a.v1', format = 'json', key = 'tenant, sub');
CREATE SOURCE b (tenant TEXT, sub TEXT, t TIMESTAMPTZ, seq BIGINT, units BIGINT, price DOUBLE, amount DECIMAL(12,2), region TEXT, flag BOOLEAN,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'b.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW v1 AS
SELECT tenant, sub, t, amount FROM a
UNION ALL
SELECT tenant, sub, t, amount FROM b;
CREATE MATERIALIZED VIEW v2 AS
SELECT tenant, sub, window_start, window_end, count(DISTINCT amount) AS c2_0, min(amount) AS c2_1, count(*) AS c2_3
FROM HOP(v1, t, INTERVAL '4 seconds', INTERVAL '20 seconds')
GROUP BY tenant, sub, window_start, window_end
EMIT ON WINDOW CLOSE;
