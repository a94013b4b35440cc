//! A job over a stream of events, and how its rows lie in time: what the sweep changes.

use crate::settings::{BOUND_S, DAY_US, EVENTS_A_KEY, HOUR_US, PLANS, SECOND_US, Settings, TOPIC, VIEW, WINDOW_US};

/// The events of a topic.
#[derive(Debug, Clone)]
pub struct Stream {
    pub topic: String,
    pub events: u64,
    pub keys: u64,
    pub seed: u64,
    /// Event time in which each key has [`EVENTS_A_KEY`] events.
    pub round_us: i64,
    /// One in so many events brings an earlier one again.
    pub repeat_every: Option<u64>,
}

/// The windows of a view: one begins with each slide and is so many slides long.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    pub slide_us: i64,
    pub slides: i64,
}

#[derive(Debug, Clone)]
pub struct Variant {
    /// The job's name, and the name in the report.
    pub name: String,
    pub stream: Stream,
    pub sql: String,
    pub windows: Windows,
    /// The job joins the table [`PLANS`], which has a row for each key.
    pub joins_plans: bool,
}

impl Stream {
    /// Events in which each key comes [`EVENTS_A_KEY`] times.
    pub fn round_events(&self) -> u64 {
        self.keys * EVENTS_A_KEY
    }
}

impl Windows {
    pub const MINUTE: Self = Self { slide_us: WINDOW_US, slides: 1 };
    /// All of time is one.
    const NONE: Self = Self { slide_us: i64::MAX, slides: 1 };
}

impl Variant {
    /// A minute after the other, told when it is over.
    pub fn base(name: &str, stream: &Stream) -> Self {
        Self::tumble(name, stream, BOUND_S)
    }

    /// The same with another bound of the watermark.
    pub fn tumble(name: &str, stream: &Stream, bound_s: i64) -> Self {
        let sql = source(stream, bound_s) + &by_window("TUMBLE(usage, event_time, INTERVAL '1 minute')", "EMIT ON WINDOW CLOSE");
        Self { name: name.to_owned(), stream: stream.clone(), sql, windows: Windows::MINUTE, joins_plans: false }
    }

    fn changes(name: &str, stream: &Stream) -> Self {
        let sql = source(stream, BOUND_S) + &by_window("TUMBLE(usage, event_time, INTERVAL '1 minute')", "EMIT CHANGES");
        Self { sql, ..Self::base(name, stream) }
    }

    fn hop(name: &str, stream: &Stream, slide_us: i64, size_us: i64) -> Self {
        let (slide_s, size_s) = (slide_us / SECOND_US, size_us / SECOND_US);
        let windows = format!("HOP(usage, event_time, INTERVAL '{slide_s} seconds', INTERVAL '{size_s} seconds')");
        let sql = source(stream, BOUND_S) + &by_window(&windows, "EMIT ON WINDOW CLOSE");
        Self { sql, windows: Windows { slide_us, slides: size_us / slide_us }, ..Self::base(name, stream) }
    }

    /// What each key has come to, beside its price: two tables joined by their key.
    fn join(name: &str, stream: &Stream) -> Self {
        let sql = source(stream, BOUND_S) + &joined();
        Self { sql, windows: Windows::NONE, joins_plans: true, ..Self::base(name, stream) }
    }
}

/// The jobs of the sweep that differ in what they do. Those that differ in their sizes alone are in [`crate::scales`].
pub fn variants(settings: &Settings) -> Vec<Variant> {
    let minutes = settings.stream();
    // Of so few keys each comes 2,000 times in 42 days, so that hundreds of windows close while events still come.
    let days = Stream { topic: format!("{TOPIC}.days"), keys: settings.events / 2_000, round_us: HOUR_US * 3 / 2, ..minutes.clone() };
    let repeats = Stream { topic: format!("{TOPIC}.repeats"), repeat_every: Some(10), ..minutes.clone() };
    vec![
        Variant::base("tumble_1m_close", &minutes),
        Variant::changes("tumble_1m_changes", &minutes),
        Variant::hop("hop_1m_5s", &minutes, 5 * SECOND_US, WINDOW_US),
        Variant::hop("hop_1m_10s", &minutes, 10 * SECOND_US, WINDOW_US),
        Variant::hop("hop_30d_1h", &days, HOUR_US, 30 * DAY_US),
        Variant::base("dedup_10m", &repeats),
        Variant::join("table_join", &minutes),
    ]
}

/// Where the stream repeats itself the source drops what it has seen.
fn source(stream: &Stream, bound_s: i64) -> String {
    let (id, dedup) = if stream.repeat_every.is_some() { ("event_id TEXT, ", ", dedup = '10m'") } else { ("", "") };
    let topic = &stream.topic;
    format!(
        "
CREATE SOURCE usage (
  {id}tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT,
  WATERMARK FOR event_time AS event_time - INTERVAL '{bound_s} seconds'
) WITH (topic = '{topic}', format = 'json', key = 'tenant, subscriber_id'{dedup});
"
    )
}

fn by_window(windows: &str, emit: &str) -> String {
    format!(
        "
CREATE MATERIALIZED VIEW {VIEW} AS
SELECT tenant, subscriber_id, window_start, window_end, sum(bytes_down) AS down, count(*) AS records, max(bytes_up) AS up_max
FROM {windows}
GROUP BY tenant, subscriber_id, window_start, window_end
{emit};
"
    )
}

fn joined() -> String {
    format!(
        "
CREATE TABLE plans (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, price BIGINT, WATERMARK FOR event_time AS event_time
) WITH (topic = '{PLANS}', format = 'json', key = 'tenant, subscriber_id');

CREATE MATERIALIZED VIEW so_far AS
SELECT tenant, subscriber_id, sum(bytes_down) AS total, count(*) AS records, max(bytes_up) AS up_max
FROM usage
GROUP BY tenant, subscriber_id;

CREATE MATERIALIZED VIEW {VIEW} AS
SELECT tenant, subscriber_id, total + price AS down, records, up_max
FROM so_far JOIN plans USING (tenant, subscriber_id);
"
    )
}
