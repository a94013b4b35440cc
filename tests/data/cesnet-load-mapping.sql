-- One address of a research network by the hour, joined with its times, as `usage` with flows and their mean duration.
SELECT
  'cesnet' AS tenant,
  'ip103' AS subscriber_id,
  CAST("time" AS TIMESTAMP) AS event_time,
  CAST("n_bytes" AS BIGINT) AS bytes_down,
  CAST("n_flows" AS BIGINT) AS flows,
  CAST("avg_duration" AS DOUBLE) AS duration
FROM input
