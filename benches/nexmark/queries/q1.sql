-- Nexmark query 1: currency conversion
--
-- What was bid, in euros?
-- Differs from the published form: in nothing; the rate is written as a decimal, so that the price is one too.

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE MATERIALIZED VIEW q1 AS
SELECT auction, bidder, CAST(0.908 AS DECIMAL(3, 3)) * CAST(price AS DECIMAL(19, 0)) AS price, date_time, extra
FROM bid;
