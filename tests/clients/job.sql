-- What the client checks publish, as a job: usage becomes messages of a subscriber's room, subscriber records the rows of two state rooms.

CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE TABLE subscriber (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, price_minor BIGINT, segment TEXT
) WITH (topic = 'subscriber.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE MATERIALIZED VIEW told AS SELECT tenant, subscriber_id, bytes_down AS n FROM usage;
CREATE MATERIALIZED VIEW risk AS SELECT tenant, subscriber_id AS k, price_minor AS n FROM subscriber WHERE segment = 'risk';
CREATE MATERIALIZED VIEW demand AS SELECT tenant, subscriber_id AS k, price_minor AS n FROM subscriber WHERE segment = 'demand';

CREATE SINK told_room FROM told WITH (connector = 'room', room = 'sub:{tenant}:{subscriber_id}', type = 'stream');
CREATE SINK risk_room FROM risk WITH (connector = 'room', room = 'risk:{tenant}', type = 'state', key = 'k');
CREATE SINK demand_room FROM demand WITH (connector = 'room', room = 'demand:{tenant}', type = 'state', key = 'k');
