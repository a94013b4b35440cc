-- Traffic of an internet provider's link, bits an hour, as `usage` of one subscriber in one region; bytes are rounded.
SELECT
  'isp' AS tenant,
  'link' AS subscriber_id,
  CAST("Time" AS TIMESTAMP) AS event_time,
  CAST(ROUND(CAST("Internet traffic data (in bits) from a private ISP with centres in 11 European cities. The data corresponds to a transatlantic link and was collected from 06:57 hours on 7 June to 11:17 hours on 31 July 2005. Hourly data." AS DOUBLE) / 8) AS BIGINT) AS bytes_down,
  'transatlantic' AS region
FROM input
