-- Nexmark query 8: monitor new users
--
-- Who came in the last 10 seconds and put something up for sale in the same 10 seconds?
-- Differs from the published form: in nothing but the name of `window_start`.

CREATE SOURCE person (
  id BIGINT, name TEXT, email_address TEXT, credit_card TEXT, city TEXT, state TEXT, date_time TIMESTAMPTZ, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.person', format = 'json', key = 'id');

CREATE SOURCE auction (
  id BIGINT, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMPTZ, expires TIMESTAMPTZ, seller BIGINT,
  category BIGINT, extra TEXT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) WITH (topic = 'nexmark.auction', format = 'json', key = 'id');

CREATE MATERIALIZED VIEW new_persons AS
SELECT id, name, window_start, window_end
FROM TUMBLE(person, date_time, INTERVAL '10 seconds')
GROUP BY id, name, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW new_sellers AS
SELECT seller, window_start, window_end
FROM TUMBLE(auction, date_time, INTERVAL '10 seconds')
GROUP BY seller, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW q8 AS
SELECT p.id AS id, p.name AS name, p.window_start AS window_start, p.window_end AS window_end
FROM new_persons p
JOIN new_sellers s ON p.id = s.seller AND p.window_start = s.window_start AND p.window_end = s.window_end
EMIT ON WINDOW CLOSE;
