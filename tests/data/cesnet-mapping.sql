-- One address of a research network by the hour, joined with its times, as `usage`.
SELECT
  'cesnet' AS tenant,
  'ip103' AS subscriber_id,
  CAST("time" AS TIMESTAMP) AS event_time,
  CAST("n_bytes" AS BIGINT) AS bytes_down,
  'prague' AS region
FROM input
