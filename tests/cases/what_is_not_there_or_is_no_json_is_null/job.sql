-- output: w
-- partitions: 2 4
CREATE SOURCE pay (tenant TEXT, sub TEXT, t TIMESTAMPTZ, doc TEXT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds')
WITH (topic = 'pay.v1', format = 'json', key = 'tenant, sub');
CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, t, json_text(doc, 'a') AS text, json_number(doc, 'a') AS number, json_boolean(doc, 'a') AS ok, json_text(doc, 'a', 'b') AS deeper FROM pay;
