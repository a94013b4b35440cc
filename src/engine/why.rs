//! Why a view tells nothing: what the tasks of this process say of themselves, and the way from a watermark that stands to the input that
//! holds it back. `headend explain --why` asks for it over HTTP.

use schemas::clock::rfc3339;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use stream_jobs::{
    plan::Job,
    status::{HeldBy, InputStatus, TaskStatus, ViewStatus},
    task::{epoch_topic, level_group},
};

/// How often a task says how it stands.
pub const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Levels between a view and a source; more would be a cycle.
const DEPTH_MAX: usize = 16;

/// What the tasks of this process say of themselves.
#[derive(Clone, Default)]
pub struct Statuses(Arc<Mutex<BTreeMap<(String, u32), Status>>>);

struct Status {
    task: TaskStatus,
    /// Of each input the watermark, and since when it stands.
    stands: BTreeMap<String, (Option<i64>, Instant)>,
}

/// The answer for one view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub view: String,
    /// The tasks of its level that run in the process that answers.
    pub tasks: Vec<TaskWhy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskWhy {
    pub group: String,
    pub task: u32,
    /// The view, and before it those that the planner made of its statement at the same level.
    pub views: Vec<ViewStatus>,
    pub causes: Vec<Cause>,
}

/// An input that holds a watermark back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The epochs on the way to it, from the view on.
    pub through: Vec<String>,
    /// Its watermark, and for how many seconds it has stood there.
    pub stands_s: u64,
    /// None where the task that reads it runs in another process.
    pub input: Option<InputStatus>,
}

impl Statuses {
    pub fn tell(&self, group: &str, task: u32, status: TaskStatus) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let before = all.remove(&(group.to_owned(), task)).map(|s| s.stands).unwrap_or_default();
        let since = |input: &InputStatus| match before.get(&input.name) {
            Some((watermark, since)) if *watermark == input.watermark => (input.watermark, *since),
            _ => (input.watermark, now),
        };
        let stands = status.inputs.iter().map(|input| (input.name.clone(), since(input))).collect();
        all.insert((group.to_owned(), task), Status { task: status, stands });
    }

    /// The task is no longer run here.
    pub fn forget(&self, group: &str, task: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(group.to_owned(), task));
    }

    /// The tasks of level 1 have said that there is nothing more in the log than they have taken.
    pub fn caught_up(&self, job: &Job, partitions: u32) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let group = level_group(&job.name, 1);
        (0..partitions).all(|task| all.get(&(group.clone(), task)).is_some_and(|s| s.task.inputs.iter().all(|input| input.caught_up)))
    }

    /// None where the job has no such view.
    pub fn why(&self, job: &Job, view: &str) -> Option<Why> {
        let spec = job.views.iter().find(|v| v.visible && v.name == view)?;
        let group = level_group(&job.name, spec.level);
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_group = all.iter().filter(|((name, _), _)| *name == group);
        let tasks = of_group.map(|((_, task), status)| TaskWhy {
            group: group.clone(),
            task: *task,
            views: status
                .task
                .views
                .iter()
                .filter(|v| v.name == view || v.name.strip_prefix(view).is_some_and(|rest| rest.starts_with('$')))
                .cloned()
                .collect(),
            causes: causes(&all, status, view, &[]),
        });
        Some(Why { view: view.to_owned(), tasks: tasks.collect() })
    }
}

/// From the view of a task down to the inputs that hold it back.
fn causes(all: &BTreeMap<(String, u32), Status>, status: &Status, view: &str, through: &[String]) -> Vec<Cause> {
    let Some(of_view) = status.task.views.iter().find(|v| v.name == view).filter(|_| through.len() < DEPTH_MAX) else { return Vec::new() };
    let cause = |held: &HeldBy| match &held.view {
        None => {
            let input = status.task.inputs.iter().find(|input| input.name == held.input).cloned();
            let stands_s = status.stands.get(&held.input).map_or(0, |(_, since)| since.elapsed().as_secs());
            vec![Cause { through: through.to_vec(), stands_s, input }]
        }
        Some(below) => {
            let through: Vec<String> = through.iter().cloned().chain([format!("`{below}` of `{}`", held.input)]).collect();
            let task = all.iter().find(|((group, task), _)| held.input == format!("{}/{task}", epoch_topic(group)));
            match task {
                Some((_, task)) => causes(all, task, below, &through),
                None => vec![Cause { through, stands_s: 0, input: None }],
            }
        }
    };
    of_view.held_by.iter().flat_map(cause).collect()
}

impl Why {
    /// For people.
    pub fn text(&self) -> String {
        if self.tasks.is_empty() {
            return format!("`{}`: none of its tasks runs in this process; `headend tasks` says who runs them", self.view);
        }
        let mut out = String::new();
        for task in &self.tasks {
            task.write(&self.view, &mut out);
        }
        out.trim_end().to_owned()
    }
}

impl TaskWhy {
    fn write(&self, view: &str, out: &mut String) {
        let of_view = self.views.iter().find(|v| v.name == view);
        let _ = writeln!(out, "`{view}` in task {} of {}: {}", self.task, self.group, of_view.map_or_else(String::new, |v| self.verdict(v)));
        for v in &self.views {
            let open = v
                .open
                .map_or_else(|| "no window is open".to_owned(), |(first, last)| format!("windows are open that end from {} to {}", time(first), time(last)));
            let counts = format!("{} rows in, {} filtered, {} late, {} out", v.rows_in, v.filtered, v.late, v.rows_out);
            let _ = writeln!(out, "  {}: watermark {}; {counts}; {open}", v.name, v.watermark.map_or_else(|| "none".to_owned(), time));
        }
        for cause in &self.causes {
            let _ = writeln!(out, "  held back by {}", cause.text());
        }
    }

    /// In one sentence.
    fn verdict(&self, of_view: &ViewStatus) -> String {
        let rows_in = self.views.first().map_or(0, |v| v.rows_in);
        match (of_view.watermark, of_view.open) {
            (Some(i64::MAX), _) => "every input has ended".to_owned(),
            (None, _) => "it has no watermark: one of its inputs has had no row yet".to_owned(),
            (Some(watermark), Some((end, _))) if watermark < end => {
                format!("the next window ends at {} and waits for the watermark, which stands {} before it", time(end), span_us(end - watermark))
            }
            _ if rows_in == 0 => "no row has come in since this process runs it".to_owned(),
            _ if self.views.iter().any(|v| v.rows_in > 0 && v.filtered == v.rows_in) => "its conditions have let no row through".to_owned(),
            _ => "it is up to date".to_owned(),
        }
    }
}

impl Cause {
    fn text(&self) -> String {
        let through = if self.through.is_empty() { String::new() } else { format!(", through {}", self.through.join(", ")) };
        let Some(input) = &self.input else {
            return format!("a task of another process{through}; ask there");
        };
        let stands = match (input.watermark, &input.source) {
            (Some(i64::MAX), _) => "ended".to_owned(),
            (Some(watermark), Some((_, bound_us))) => {
                format!(
                    "its watermark stands at {} for {} s (newest event {}, bound {})",
                    time(watermark),
                    self.stands_s,
                    time(watermark + bound_us),
                    span_us(*bound_us)
                )
            }
            (Some(watermark), None) => format!("its watermark stands at {} for {} s", time(watermark), self.stands_s),
            (None, _) => format!("no row has come for {} s", self.stands_s),
        };
        let quiet = match (input.ended, input.idle, input.caught_up) {
            (true, ..) => "",
            (_, true, _) => "; it is idle: caught up and quiet",
            (_, _, true) => "; it is caught up",
            _ => "; it is not caught up",
        };
        let counts = &input.counters;
        let fates = format!(
            "{} rows, {} dead letters ({} of them misplaced), {} duplicates, {} from the future",
            counts.rows_in, counts.dead, counts.misplaced, counts.duplicate, counts.future
        );
        format!("`{}`{through}: {stands}{quiet}; {fates}", input.name)
    }
}

fn time(us: i64) -> String {
    rfc3339(us)
}

fn span_us(us: i64) -> String {
    format!("{} s", us as f64 / 1e6)
}
