-- expect: 3:1: option `key` is missing
-- hint: for example `key = 'tenant, subscriber_id'`
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t)
WITH (topic = 'usage.v1');
