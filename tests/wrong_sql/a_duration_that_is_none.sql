-- expect: 4:43: option `max_skew` is `soon`, expected a length of time
-- hint: for example `'10m'`
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t)
WITH (topic = 'usage.v1', key = 'tenant', max_skew = 'soon');
