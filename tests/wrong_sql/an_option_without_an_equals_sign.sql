-- expect: 3:13: expected `=`, found `'usage.v1'`
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t)
WITH (topic 'usage.v1', key = 'tenant');
