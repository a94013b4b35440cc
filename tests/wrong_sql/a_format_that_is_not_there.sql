-- expect: 3:27: option `format` is `avro`, expected one of `json`
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t)
WITH (topic = 'usage.v1', format = 'avro', key = 'tenant');
