-- expect: 3:73: expected an interval
-- hint: for example `INTERVAL '5 seconds'`
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t - 5)
WITH (topic = 'usage.v1', key = 'tenant');
