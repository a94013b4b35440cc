-- Nexmark query 20: expand bid with auction
--
-- What was bid in auctions of category 10, and for what?
-- Differs from the published form: that one joins without a bound and keeps both streams for ever. Here a bid counts when it came at most 20
-- seconds after its auction began or 2 seconds before it. That loses nothing: bids go to the 100 newest auctions or the next 10, or to one that
-- was the newest at most 100 auctions ago, and 101 auctions take 8.5 s at 200 events a second.

CREATE SOURCE auction (
  id BIGINT, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMPTZ, expires TIMESTAMPTZ, seller BIGINT,
  category BIGINT, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.auction', format = 'json', key = 'id');

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE MATERIALIZED VIEW q20 AS
SELECT b.auction AS auction, b.bidder AS bidder, b.price AS price, b.channel AS channel, b.url AS url, b.date_time AS bid_date_time, b.extra AS bid_extra,
  a.item_name AS item_name, a.description AS description, a.initial_bid AS initial_bid, a.reserve AS reserve, a.date_time AS auction_date_time,
  a.expires AS expires, a.seller AS seller, a.category AS category, a.extra AS auction_extra
FROM bid b
JOIN auction a ON b.auction = a.id AND a.date_time BETWEEN b.date_time - INTERVAL '20 seconds' AND b.date_time + INTERVAL '2 seconds'
WHERE a.category = 10;
