-- Nexmark query 11: user sessions
--
-- How many bids did each user make in each session? A session ends with 10 seconds of silence.
-- Differs from the published form: in the names of the bounds alone.

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE MATERIALIZED VIEW q11 AS
SELECT bidder, window_start, window_end, COUNT(*) AS bid_count
FROM SESSION(bid, date_time, INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end
EMIT ON WINDOW CLOSE;
