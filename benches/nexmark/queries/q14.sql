-- Nexmark query 14: calculation
--
-- Which bids were of about 1 to 50 million euro cents, at what time of the day, and how many letters c are in their filler?
-- Differs from the published form: `count_char` is an expression of SQL and not a class of Java.

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE FUNCTION count_char(letters TEXT, wanted TEXT) RETURNS BIGINT
AS 'character_length(letters) - character_length(replace(letters, wanted, ''''))';

CREATE MATERIALIZED VIEW q14 AS
SELECT auction, bidder, CAST(0.908 AS DECIMAL(3, 3)) * CAST(price AS DECIMAL(19, 0)) AS price,
  CASE
    WHEN date_part('hour', date_time) >= 8 AND date_part('hour', date_time) <= 18 THEN 'dayTime'
    WHEN date_part('hour', date_time) <= 6 OR date_part('hour', date_time) >= 20 THEN 'nightTime'
    ELSE 'otherTime'
  END AS bid_time_type,
  date_time, extra, count_char(extra, 'c') AS c_counts
FROM bid
WHERE CAST(0.908 AS DECIMAL(3, 3)) * CAST(price AS DECIMAL(19, 0)) > 1000000
  AND CAST(0.908 AS DECIMAL(3, 3)) * CAST(price AS DECIMAL(19, 0)) < 50000000;
