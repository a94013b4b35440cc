-- expect: 3:43: option `trust_partition` is `yes`, expected `true` or `false`
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t)
WITH (topic = 'usage.v1', key = 'tenant', trust_partition = 'yes');
