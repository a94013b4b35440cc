-- Nexmark query 7: highest bid
--
-- Which bids were the highest of their 10 seconds?
-- Differs from the published form: a bid belongs to its own window alone. There the bound holds both ends of a window, so that a bid on the very
-- end of one would also count as the highest of that one.

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE MATERIALIZED VIEW highest AS
SELECT window_start, window_end, MAX(price) AS max_price
FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')
GROUP BY window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW q7 AS
SELECT b.auction AS auction, b.price AS price, b.bidder AS bidder, b.date_time AS date_time, b.extra AS extra
FROM bid b
JOIN highest h ON b.price = h.max_price AND b.date_time BETWEEN h.window_end - INTERVAL '10 seconds' AND h.window_end - INTERVAL '1 microsecond';
