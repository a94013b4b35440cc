-- Nexmark query 3: local item suggestion
--
-- Who sells something of category 10 in Oregon, Idaho or California, and in which auction?
-- Differs from the published form: that one joins without a bound and keeps both streams for ever. Here a seller counts when they came at most
-- 10 minutes before their auction or 1 minute after it. That loses nothing: the seller is one of the 1,000 newest persons, or one of the next
-- 10, and 1,000 persons are 50,000 events, which take 250 s at 200 events a second.

CREATE SOURCE person (
  id BIGINT, name TEXT, email_address TEXT, credit_card TEXT, city TEXT, state TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.person', format = 'json', key = 'id');

CREATE SOURCE auction (
  id BIGINT, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMPTZ, expires TIMESTAMPTZ, seller BIGINT,
  category BIGINT, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.auction', format = 'json', key = 'id');

CREATE MATERIALIZED VIEW q3 AS
SELECT p.name AS name, p.city AS city, p.state AS state, a.id AS id
FROM auction a
JOIN person p ON a.seller = p.id AND p.date_time BETWEEN a.date_time - INTERVAL '10 minutes' AND a.date_time + INTERVAL '1 minute'
WHERE a.category = 10 AND (p.state = 'OR' OR p.state = 'ID' OR p.state = 'CA');
