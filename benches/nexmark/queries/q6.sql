-- Nexmark query 6: average selling price by seller
--
-- What is the average price of the last ten auctions that each seller closed?
-- Differs from the published form: that one averages over the rows of a window that slides along each seller's sales, which not even its own
-- engine can run over rows that change. Here it is the average of the ten newest winning bids (the newest by the time of the bid), told when it
-- changes. The join has a bound.
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

CREATE MATERIALIZED VIEW winning AS
SELECT a.id AS id, a.seller AS seller, MAX(b.price) AS price, LAST_VALUE(b.date_time ORDER BY b.price, b.date_time DESC) AS won_at
FROM auction a
JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.date_time + INTERVAL '20 seconds'
WHERE b.date_time <= a.expires
GROUP BY a.id, a.seller
EMIT CHANGES;

CREATE MATERIALIZED VIEW q6 AS
SELECT seller, AVG(price) AS avg_price
FROM (SELECT seller, price, ROW_NUMBER() OVER (PARTITION BY seller ORDER BY won_at DESC) AS row_num FROM winning) AS ranked
WHERE row_num <= 10
GROUP BY seller
EMIT CHANGES;
