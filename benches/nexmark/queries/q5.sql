-- Nexmark query 5: hot items
--
-- Which auctions had the most bids of the last 10 seconds? Told every 2 seconds, with all that share the first place.
-- Differs from the published form: the window is told with the auction, and the counts are a view of their own instead of being written twice.

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE MATERIALIZED VIEW auction_bids AS
SELECT auction, window_start, window_end, COUNT(*) AS num
FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
GROUP BY auction, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW max_bids AS
SELECT window_start, window_end, MAX(num) AS max_num
FROM auction_bids
GROUP BY window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW q5 AS
SELECT a.auction AS auction, a.num AS num, a.window_start AS window_start, a.window_end AS window_end
FROM auction_bids a
JOIN max_bids m ON a.window_start = m.window_start AND a.window_end = m.window_end
WHERE a.num >= m.max_num
EMIT ON WINDOW CLOSE;
