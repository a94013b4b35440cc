-- expect: 3:73: there is no column `event_tme`; columns are `tenant`, `event_time`
-- hint: did you mean `event_time`?
CREATE SOURCE usage (tenant TEXT, event_time TIMESTAMPTZ, WATERMARK FOR event_tme AS event_tme)
WITH (topic = 'usage.v1', key = 'tenant');
