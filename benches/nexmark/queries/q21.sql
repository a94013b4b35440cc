-- Nexmark query 21: add channel id
--
-- Which number has the channel of each bid? The four big ones have a fixed one, the others tell it in their address; bids without any are left out.
-- Differs from the published form: `regexp_replace` stands for `REGEXP_EXTRACT`.

CREATE SOURCE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.bid', format = 'json', key = 'auction');

CREATE MATERIALIZED VIEW q21 AS
SELECT auction, bidder, price, channel,
  CASE
    WHEN lower(channel) = 'apple' THEN '0'
    WHEN lower(channel) = 'google' THEN '1'
    WHEN lower(channel) = 'facebook' THEN '2'
    WHEN lower(channel) = 'baidu' THEN '3'
    ELSE regexp_replace(url, '^(.*&)?channel_id=([^&]*).*$', '\2')
  END AS channel_id
FROM bid
WHERE url ~ '(&|^)channel_id=' OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu');
