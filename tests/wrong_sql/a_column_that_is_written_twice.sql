-- expect: 3:16: column `tenant` is written twice
CREATE SOURCE usage (
  tenant TEXT, tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t
) WITH (topic = 'usage.v1', key = 'tenant');
