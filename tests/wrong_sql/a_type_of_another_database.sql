-- expect: 3:20: there is no type `BLOB` here; types are `TEXT`, `BIGINT`, `INT`, `SMALLINT`, `DOUBLE`, `REAL`, `BOOLEAN`, `TIMESTAMPTZ`, `DATE`, `DECIMAL(p, s)`, `JSON`
CREATE SOURCE usage (
  tenant TEXT, doc BLOB, t TIMESTAMPTZ, WATERMARK FOR t AS t
) WITH (topic = 'usage.v1', key = 'tenant');
