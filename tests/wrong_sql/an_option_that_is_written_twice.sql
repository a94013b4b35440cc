-- expect: 3:43: option `topic` is written twice
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t)
WITH (topic = 'usage.v1', key = 'tenant', topic = 'usage.v2');
