-- expect: 3:48: there is no option `dedup` here; options are `topic`, `format`, `key`, `broadcast`, `trust_partition`, `max_skew`, `idle_timeout`
CREATE TABLE subscriber (tenant TEXT, event_id TEXT)
WITH (topic = 'subscriber.v1', key = 'tenant', dedup = '10m');
