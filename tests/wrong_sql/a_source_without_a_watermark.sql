-- expect: 3:15: source `usage` has no time
-- hint: write `WATERMARK FOR t AS t - INTERVAL '5 seconds'` after its columns
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ)
WITH (topic = 'usage.v1', key = 'tenant');
