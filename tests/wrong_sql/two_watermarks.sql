-- expect: 2:72: `WATERMARK` is written twice
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t, WATERMARK FOR t AS t)
WITH (topic = 'usage.v1', key = 'tenant');
