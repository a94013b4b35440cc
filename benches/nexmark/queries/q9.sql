-- Nexmark query 9: winning bids
--
-- Which bid won each auction?
-- Differs from the published form: the join has a bound.
-- An auction is open for at most 1 ms and twice the time of 1,666 events: 16.7 s at 200 events a second. So the bound of 20 s loses nothing,
-- and `expires` decides.

CREATE SOURCE auction (
  id BIGINT, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMPTZ, expires TIMESTAMPTZ, seller BIGINT,
  category BIGINT, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.auction', format = 'json', key = 'id');

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE MATERIALIZED VIEW valid_bids AS
SELECT a.id AS id, a.item_name AS item_name, a.description AS description, a.initial_bid AS initial_bid, a.reserve AS reserve,
  a.date_time AS date_time, a.expires AS expires, a.seller AS seller, a.category AS category, a.extra AS extra,
  b.auction AS auction, b.bidder AS bidder, b.price AS price, b.date_time AS bid_date_time, b.extra AS bid_extra
FROM auction a
JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.date_time + INTERVAL '20 seconds'
WHERE b.date_time <= a.expires;

CREATE MATERIALIZED VIEW q9 AS
SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra,
  auction, bidder, price, bid_date_time, bid_extra
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY price DESC, bid_date_time ASC) AS row_num FROM valid_bids) AS ranked
WHERE row_num <= 1
EMIT CHANGES;
