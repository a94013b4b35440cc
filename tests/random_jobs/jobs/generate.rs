//! A random job for a seed.
//!
//! What the semantics leave open is not generated, so that nothing has to be passed over when results are compared: where the order of
//! rows matters, either one partition holds them all in one order, or all times of the job differ.

use super::{
    generate_rows::Rows,
    job::*,
    random::Random,
    shape::{Kind, Shape},
    value::{HOUR, MINUTE, SECOND, Type},
};

/// What may stand in a job beside `TUMBLE` and `HOP` with `EMIT ON WINDOW CLOSE`.
#[derive(Debug, Clone, Default)]
pub struct Features {
    pub cumulate: bool,
    pub session: bool,
    pub allowed_lateness: bool,
    pub union: bool,
    pub joins: bool,
    pub full_joins: bool,
    pub interval_joins: bool,
    pub exchange_joins: bool,
    pub window_joins: bool,
    pub top_n: bool,
    /// `count(DISTINCT x)`, `median`, … on window close, by the key of the source.
    pub foreign_aggregates: bool,
    /// Those without a window, by another key and over changes too, and min and max over changes.
    pub aggregates_everywhere: bool,
    /// Aggregates of DataFusion that depend on the order of rows: `stddev`, `string_agg`.
    pub ordered_aggregates: bool,
    /// `ORDER BY` inside of an aggregate.
    pub aggregate_order_by: bool,
    pub unwindowed: bool,
    pub changes: bool,
    pub every: bool,
    pub dedup: bool,
    pub nested: bool,
    pub distinct: bool,
    /// Doubles whose sum depends on the order of a plain loop.
    pub exact_floats: bool,
    /// Rows that are late for some of their hopping windows.
    pub partly_late: bool,
    /// The same in views by another key.
    pub partly_late_by_another_key: bool,
    /// `FILTER` on an aggregate of DataFusion.
    pub foreign_filter: bool,
    /// Rows so far behind the watermark that a source may have forgotten their ids.
    pub dedup_late: bool,
    /// Ids that come more than twice.
    pub dedup_thrice: bool,
    /// Records without a value, which `headend try` cannot read.
    pub tombstones: bool,
}

const NAMES: &[&str] = &[
    "cumulate",
    "session",
    "allowed_lateness",
    "union",
    "joins",
    "full_joins",
    "interval_joins",
    "exchange_joins",
    "window_joins",
    "top_n",
    "foreign_aggregates",
    "aggregates_everywhere",
    "ordered_aggregates",
    "aggregate_order_by",
    "unwindowed",
    "changes",
    "every",
    "dedup",
    "nested",
    "distinct",
    "exact_floats",
    "partly_late",
    "partly_late_by_another_key",
    "foreign_filter",
    "dedup_late",
    "dedup_thrice",
    "tombstones",
];

impl Features {
    pub fn all() -> Self {
        let mut features = Self::default();
        for name in NAMES {
            features.enable(name);
        }
        features
    }

    /// False where no feature has this name.
    pub fn enable(&mut self, name: &str) -> bool {
        let of = match name {
            "cumulate" => &mut self.cumulate,
            "session" => &mut self.session,
            "allowed_lateness" => &mut self.allowed_lateness,
            "union" => &mut self.union,
            "joins" => &mut self.joins,
            "full_joins" => &mut self.full_joins,
            "interval_joins" => &mut self.interval_joins,
            "exchange_joins" => &mut self.exchange_joins,
            "window_joins" => &mut self.window_joins,
            "top_n" => &mut self.top_n,
            "foreign_aggregates" => &mut self.foreign_aggregates,
            "aggregates_everywhere" => &mut self.aggregates_everywhere,
            "ordered_aggregates" => &mut self.ordered_aggregates,
            "aggregate_order_by" => &mut self.aggregate_order_by,
            "unwindowed" => &mut self.unwindowed,
            "changes" => &mut self.changes,
            "every" => &mut self.every,
            "dedup" => &mut self.dedup,
            "nested" => &mut self.nested,
            "distinct" => &mut self.distinct,
            "exact_floats" => &mut self.exact_floats,
            "partly_late_by_another_key" => &mut self.partly_late_by_another_key,
            "partly_late" => &mut self.partly_late,
            "foreign_filter" => &mut self.foreign_filter,
            "dedup_late" => &mut self.dedup_late,
            "dedup_thrice" => &mut self.dedup_thrice,
            "tombstones" => &mut self.tombstones,
            _ => return false,
        };
        *of = true;
        true
    }
}

pub(super) struct Maker<'a> {
    pub random: Random,
    pub features: &'a Features,
    pub job: Job,
    /// The usual distance of two rows; windows are a few of it.
    pub scale: i64,
    pub edge: i64,
    pub unique_times: bool,
}

/// What the job is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plot {
    Window,
    WindowOverWindow,
    Union,
    Unwindowed,
    UnwindowedTwice,
    UnwindowedOverWindow,
    Distinct,
    Join,
    WindowJoin,
    IntervalJoin,
    Top,
    TopOfWindows,
    Map,
}

pub fn generate(seed: u64, features: &Features) -> Job {
    let mut random = Random::new(seed);
    let scale = random.pick(&[200_000, SECOND, SECOND, 5 * SECOND, 30 * SECOND]);
    let unique_times = random.chance(50);
    let job = Job { seed, sources: Vec::new(), views: Vec::new() };
    let mut maker = Maker { random, features, job, scale, edge: 10 * scale, unique_times };
    let plot = maker.plot();
    maker.sources(plot);
    match plot {
        Plot::Window => {
            let input = maker.stream("a");
            maker.window(&input, true);
        }
        Plot::WindowOverWindow => {
            let input = maker.stream("a");
            let first = maker.window(&input, false);
            maker.window_over(&first);
        }
        Plot::Union => {
            let input = maker.union();
            if maker.features.unwindowed && maker.random.chance(30) {
                maker.unwindowed(&input, true)
            } else {
                maker.window(&input, true)
            };
        }
        Plot::Unwindowed => {
            let input = maker.stream("a");
            maker.unwindowed(&input, true);
        }
        Plot::UnwindowedTwice => {
            let input = maker.stream("a");
            let first = maker.unwindowed(&input, false);
            maker.unwindowed(&first, true);
        }
        Plot::UnwindowedOverWindow => {
            let input = maker.stream("a");
            let first = maker.window(&input, false);
            maker.unwindowed(&first, true);
        }
        Plot::Distinct => maker.distinct("a"),
        Plot::Join => maker.join(),
        Plot::WindowJoin => maker.window_join(),
        Plot::IntervalJoin => maker.interval_join(),
        Plot::Top => {
            let input = maker.stream("a");
            maker.top(&input);
        }
        Plot::TopOfWindows => {
            let input = maker.stream("a");
            let first = maker.window(&input, false);
            maker.top_of_windows(&first);
        }
        Plot::Map => maker.map("a", true),
    }
    maker.widen_bounds();
    maker.nest();
    let mut job = maker.job;
    job.remove_unread();
    job
}

impl Maker<'_> {
    fn plot(&mut self) -> Plot {
        let f = self.features;
        let plots = [
            (true, 30, Plot::Window),
            (true, 12, Plot::WindowOverWindow),
            (true, 2, Plot::Map),
            (f.union, 15, Plot::Union),
            (f.unwindowed, 15, Plot::Unwindowed),
            (f.unwindowed, 6, Plot::UnwindowedTwice),
            (f.unwindowed, 6, Plot::UnwindowedOverWindow),
            (f.distinct, 4, Plot::Distinct),
            (f.joins, 15, Plot::Join),
            (f.window_joins, 10, Plot::WindowJoin),
            (f.interval_joins, 15, Plot::IntervalJoin),
            (f.top_n, 10, Plot::Top),
            (f.top_n, 8, Plot::TopOfWindows),
        ];
        let all: Vec<Plot> = plots.iter().filter(|p| p.0).flat_map(|p| std::iter::repeat_n(p.2, p.1)).collect();
        self.random.pick(&all)
    }

    fn sources(&mut self, plot: Plot) {
        self.edge = self.scale * self.random.pick(&[2, 5, 10, 10, 15, 20, 60]);
        if plot == Plot::Union || plot == Plot::WindowJoin {
            self.unique_times = true;
        }
        let two = matches!(plot, Plot::Union | Plot::IntervalJoin | Plot::Join | Plot::WindowJoin);
        for name in ["a", "b"].iter().take(1 + usize::from(two)) {
            self.source(name, false);
        }
        if plot == Plot::Join {
            self.source("p", true);
        }
        Rows { random: &mut self.random, features: self.features, scale: self.scale, edge: self.edge, unique_times: self.unique_times }
            .fill(&mut self.job.sources);
    }

    fn source(&mut self, name: &str, table: bool) {
        let bound_us = self.random.pick(&[0, SECOND, 5 * SECOND, 5 * SECOND, MINUTE, self.scale * 3]);
        let dedup_us = (self.features.dedup && !table && self.random.chance(30)).then(|| self.scale * self.random.pick(&[2, 10, 100]));
        let mut columns = vec![("tenant", Type::Text), ("sub", Type::Text), ("t", Type::Time), ("seq", Type::Integer)];
        if dedup_us.is_some() {
            columns.push(("event_id", Type::Text));
        }
        columns.extend([("units", Type::Integer), ("price", Type::Double), ("amount", Type::Decimal(2)), ("region", Type::Text), ("flag", Type::Boolean)]);
        let columns = columns.into_iter().map(|(n, t)| (n.to_owned(), t)).collect();
        self.job.sources.push(Source { name: name.to_owned(), table, bound_us, dedup_us, columns, rows: Vec::new() });
    }

    /// Writes some views inside of the only one that reads them.
    fn nest(&mut self) {
        for at in 0..self.job.views.len() {
            let name = self.job.views[at].name.clone();
            let mut readers = self.job.views.iter().filter(|v| v.body.inputs().contains(&name.as_str()));
            let (Some(reader), None) = (readers.next(), readers.next()) else { continue };
            let view = &self.job.views[at];
            let alike = view.emit == Emit::Rows || view.emit == reader.emit;
            let windowed = matches!(&reader.body, Body::Group(Group { window: Some(_), .. }));
            if !self.features.nested || !alike || matches!(reader.body, Body::Interval(_)) || !self.random.chance(50) {
                continue;
            }
            self.job.views[at].place = if windowed || self.random.chance(50) { Place::With } else { Place::Subquery };
            if let Body::Group(group) = &mut self.job.views[at].body {
                // The option would be one of the whole statement.
                group.drops_late = false;
            }
        }
    }

    /// Where a feature is off that is about late rows, no row is late.
    fn widen_bounds(&mut self) {
        let is_off = |view: &View| {
            let Body::Group(Group { window: Some(Window { kind: WindowKind::Hop { .. } | WindowKind::Cumulate { .. }, .. }), .. }) = &view.body else {
                return false;
            };
            let another_key = self.job.shape(&view.name).is_some_and(|s| s.level == 2);
            !self.features.partly_late || (another_key && !self.features.partly_late_by_another_key)
        };
        let wide = self.job.views.iter().any(is_off);
        let dedup_late = self.features.dedup_late;
        for source in &mut self.job.sources {
            if wide || (source.dedup_us.is_some() && !dedup_late) {
                source.bound_us = 10_000 * self.scale;
            }
        }
    }

    pub fn shape(&self, name: &str) -> Shape {
        self.job.shape(name).unwrap_or_else(|| panic!("seed {}: `{name}` is not whole\n{}", self.job.seed, self.job.sql()))
    }

    pub fn next_name(&self) -> String {
        format!("v{}", self.job.views.len() + 1)
    }

    pub fn add(&mut self, body: Body, emit: Emit) -> String {
        let name = self.next_name();
        self.job.views.push(View { name: name.clone(), body, emit, place: Place::Statement });
        name
    }

    /// The relation, sometimes behind a map of its own.
    pub fn stream(&mut self, name: &str) -> String {
        if self.random.chance(35) {
            self.map(name, false);
            return self.job.output().to_owned();
        }
        name.to_owned()
    }

    /// Whether results by these keys may depend on the order of rows.
    pub fn is_ordered(&self, shape: &Shape, keys: &[String]) -> bool {
        let together = shape.ordered_by.as_ref().is_some_and(|columns| columns.iter().all(|c| keys.contains(c)));
        match shape.kind {
            Kind::Stream => together || self.unique_times,
            Kind::Closed => together,
            Kind::Table => false,
        }
    }

    pub fn tick(&mut self) -> i64 {
        self.scale * self.random.pick(&[1, 2, 3, 7, 7, 10, 60])
    }

    pub fn length(&mut self) -> i64 {
        let length = self.scale * self.random.pick(&[2, 5, 7, 10, 15, 20, 60]);
        if self.random.chance(50) { self.edge } else { length.min(100 * HOUR) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_a_whole_job_and_the_same_twice() {
        let features = Features::all();
        for seed in 0..3_000 {
            let job = generate(seed, &features);
            assert!(job.is_whole(), "seed {seed}\n{}", job.sql());
            assert_eq!(job, generate(seed, &features));
            job.expected(&|_| 0);
        }
    }

    #[test]
    fn what_is_smaller_is_whole_too() {
        for seed in 0..60 {
            for job in generate(seed, &Features::all()).shrink() {
                job.expected(&|_| 0);
            }
        }
    }
}
