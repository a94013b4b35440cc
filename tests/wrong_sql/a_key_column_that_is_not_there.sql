-- expect: 4:27: there is no column `tenat`; columns are `tenant`, `t`
-- hint: did you mean `tenant`?
CREATE SOURCE usage (tenant TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t)
WITH (topic = 'usage.v1', key = 'tenat');
