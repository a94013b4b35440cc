-- expect: 4:43: there is no option `dedupe` here; options are `topic`, `format`, `key`, `dedup`, `trust_partition`, `max_skew`, `idle_timeout`
-- hint: did you mean `dedup`?
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t)
WITH (topic = 'usage.v1', key = 'tenant', dedupe = '10m');
