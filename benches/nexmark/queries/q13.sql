-- Nexmark query 13: bounded side input join
--
-- What stands in a small table beside each bid?
-- Differs from the published form: the table is a topic with a row for each number from 0 to 9,999 (the generator's `side_input`), older than
-- all events, and it is looked up as of the bid's time, not as of the clock on the wall.

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE TABLE side_input (
  key BIGINT, value TEXT, date_time TIMESTAMPTZ, WATERMARK FOR date_time AS date_time
) WITH (topic = 'nexmark.side_input', format = 'json', key = 'key');

CREATE MATERIALIZED VIEW numbered AS
SELECT auction, bidder, price, date_time, auction % 10000 AS side_key
FROM bid;

CREATE MATERIALIZED VIEW q13 AS
SELECT b.auction AS auction, b.bidder AS bidder, b.price AS price, b.date_time AS date_time, s.value AS value
FROM numbered b
JOIN side_input s FOR SYSTEM_TIME AS OF b.date_time ON b.side_key = s.key;
