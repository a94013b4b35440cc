-- Nexmark query 10: log to a file system
--
-- All bids, in files by day and minute.
-- Differs from the published form: the files are Parquet, and day and minute are columns in them, not folders.

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE MATERIALIZED VIEW q10 AS
SELECT auction, bidder, price, date_time, extra, to_char(date_time, '%Y-%m-%d') AS dt, to_char(date_time, '%H:%M') AS hm
FROM bid;

CREATE SINK q10_files FROM q10 WITH (connector = 'parquet', path = 'nexmark-q10', flush_interval = '1m');
