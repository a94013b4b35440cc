-- What the fail-over check publishes, as a job: every event is a message of one stream room and a row of one state room. An event that is
-- posted again counts once.

CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id', dedup = '10m');

CREATE MATERIALIZED VIEW told AS SELECT tenant, subscriber_id AS k, bytes_down AS n FROM usage;

CREATE SINK told_room FROM told WITH (connector = 'room', room = 'admin:{tenant}', type = 'stream');
CREATE SINK newest_room FROM told WITH (connector = 'room', room = 'risk:{tenant}', type = 'state', key = 'k');
