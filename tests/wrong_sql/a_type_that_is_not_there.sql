-- expect: 3:10: there is no type `STRNG` here; types are `TEXT`, `BIGINT`, `INT`, `SMALLINT`, `DOUBLE`, `REAL`, `BOOLEAN`, `TIMESTAMPTZ`, `DATE`, `DECIMAL(p, s)`, `JSON`
CREATE SOURCE usage (
  tenant STRNG, t TIMESTAMPTZ, WATERMARK FOR t AS t
) WITH (topic = 'usage.v1', key = 'tenant');
