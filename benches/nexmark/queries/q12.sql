-- Nexmark query 12: processing time windows
--
-- How many bids did each user make in each 10 seconds?
-- Differs from the published form: that one counts by the clock on the wall when the bid is processed, which no replay could repeat and which
-- the dialect therefore lacks. Here it is event time.

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE MATERIALIZED VIEW q12 AS
SELECT bidder, window_start, window_end, COUNT(*) AS bid_count
FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end
EMIT ON WINDOW CLOSE;
