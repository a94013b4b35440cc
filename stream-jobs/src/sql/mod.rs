//! The dialect: from the text of a job file to a planned [`Job`], or to a sentence with line and column.
//!
//! It promises that a text of any length and shape gives a job or an error, in bounded time and stack, and that a job which
//! was planned can run: every name is known, every type fits, every row of a group lies in one task. It touches no file,
//! no topic and no clock.
//!
//! ```
//! use stream_jobs::sql::{FunctionContext, plan_job};
//! let job = plan_job("plain", "
//!     CREATE SOURCE usage (tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT,
//!       WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds')
//!     WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
//!     CREATE MATERIALIZED VIEW usage_1m AS
//!     SELECT tenant, subscriber_id, window_end, SUM(bytes_down) AS bytes
//!     FROM TUMBLE(usage, event_time, INTERVAL '1 minute')
//!     GROUP BY tenant, subscriber_id, window_start, window_end
//!     EMIT ON WINDOW CLOSE;", &FunctionContext::default())?;
//! assert_eq!(job.views[0].name, "usage_1m");
//! # Ok::<(), stream_jobs::sql::SqlError>(())
//! ```

mod aggregate;
mod alert;
mod catalog;
mod error;
mod explain;
mod functions;
mod interval;
mod join;
mod json;
mod keyed;
mod mapping;
mod options;
mod query;
mod rank;
mod rows;
mod scope;
mod source;
mod statement;
mod tokens;
mod two;
mod union;
mod user;
mod using;
mod view;
mod window;

#[cfg(test)]
mod tests;

pub use error::SqlError;
pub use explain::{explain, explain_json};
pub use functions::{CHURN_MODEL, FunctionContext};
pub use interval::parse_duration_us;
pub use mapping::Mapping;

use crate::plan::{Body, Job, Relation, SinkSpec};
use catalog::Catalog;
use datafusion::sql::sqlparser::tokenizer::Location;
use error::{Result, nearest};
use statement::{Name, SinkStatement, Statement};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// The stack on which texts are parsed and planned. The bounds on tokens bound the depth of every tree; parser and planner take
/// up to 100 KiB a level, more than a thread of a server has.
const PLANNING_STACK_BYTES: usize = 64 << 20;

/// Plans the job file `text`; `name` is the job's, from the file's name.
pub fn plan_job(name: &str, text: &str, functions: &FunctionContext) -> std::result::Result<Job, SqlError> {
    on_deep_stack(|| plan_statements(name, text, functions))
}

fn on_deep_stack<T: Send>(plan: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let start = Location::new(1, 1);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sql".into()).stack_size(PLANNING_STACK_BYTES).spawn_scoped(scope, plan);
        let thread = thread.map_err(|e| SqlError::at(start, format!("cannot start the planner: {e}")))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn plan_statements(name: &str, text: &str, functions: &FunctionContext) -> Result<Job> {
    let statements = tokens::statements(text)?;
    let mut planner = Planner {
        catalog: Arc::new(Catalog::new(functions)),
        job: Job { name: name.into(), sql_hash: hash(text), sources: Vec::new(), views: Vec::new(), sinks: Vec::new(), alerts: Vec::new() },
    };
    if statements.is_empty() {
        return Err(SqlError::at(Location::new(1, 1), "the file holds no statement"));
    }
    for tokens in &statements {
        planner.add(statement::parse(tokens)?, &tokens.text)?;
    }
    Ok(planner.job)
}

fn hash(text: &str) -> String {
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

struct Planner {
    catalog: Arc<Catalog>,
    job: Job,
}

impl Planner {
    fn add(&mut self, statement: Statement, text: &str) -> Result<()> {
        match statement {
            Statement::Relation(statement) => {
                self.check_new(&statement.name)?;
                let (spec, info) = source::plan(statement, Relation::Source(self.job.sources.len()))?;
                self.job.sources.push(spec);
                Arc::make_mut(&mut self.catalog).add(info);
            }
            Statement::Function(statement) => {
                check_name(&Name { text: statement.name.clone(), place: statement.body_place })?;
                if self.catalog.has_function(&statement.name) {
                    let error = SqlError::at(statement.body_place, format!("there is a function `{}` already", statement.name));
                    return Err(error.hint("give yours another name"));
                }
                let function = user::plan(*statement, &self.catalog)?;
                Arc::make_mut(&mut self.catalog).add_function(function);
            }
            Statement::View(statement) => {
                self.check_new(&statement.name)?;
                let views = view::plan(statement, text, &self.catalog, self.job.views.len())?;
                self.job.views.extend(views.specs);
                Arc::make_mut(&mut self.catalog).add(views.info);
            }
            Statement::Sink(statement) => {
                let sink = self.sink(statement)?;
                self.job.sinks.push(sink);
            }
            Statement::Alert(statement) => {
                check_name(&statement.name)?;
                if self.job.alerts.iter().any(|alert| alert.name == statement.name.text) {
                    return Err(taken(&statement.name));
                }
                let view = self.view_index(&statement.view)?;
                let place = statement.name.place;
                let spec = alert::plan(*statement, text, view, &self.job, &self.catalog)?;
                if let Some(commands) = spec.commands.as_ref().and_then(|name| self.catalog.get(name)) {
                    self.may_be_empty(commands.relation);
                }
                self.job.views.extend(alert::views(&spec, self.job.alerts.len(), text, &self.job, &self.catalog, place)?);
                self.job.alerts.push(spec);
            }
        }
        Ok(())
    }

    /// The source of a relation that holds nobody back while nothing comes.
    fn may_be_empty(&mut self, relation: Relation) {
        match relation {
            Relation::Source(source) => self.job.sources[source].may_be_empty = true,
            Relation::View(view) => {
                if let Body::Map { input, .. } = self.job.views[view].body {
                    self.may_be_empty(input);
                }
            }
        }
    }

    fn check_new(&self, name: &Name) -> Result<()> {
        check_name(name)?;
        match self.catalog.get(&name.text) {
            Some(_) => Err(taken(name)),
            None => Ok(()),
        }
    }

    fn view_index(&self, name: &Name) -> Result<usize> {
        match self.catalog.get(&name.text).map(|info| info.relation) {
            Some(Relation::View(index)) => Ok(index),
            Some(Relation::Source(_)) => Err(SqlError::at(name.place, format!("`{}` is a source and no view", name.text)).hint("write a view over it")),
            None => {
                let views: Vec<&str> = self.job.views.iter().filter(|v| v.visible).map(|v| v.name.as_str()).collect();
                let message = format!("there is no view `{}`; views are {}", name.text, error::list(&views));
                Err(SqlError::at(name.place, message).hint_opt(nearest(&name.text, views)))
            }
        }
    }

    fn sink(&self, statement: SinkStatement) -> Result<SinkSpec> {
        let SinkStatement { name, view, mut options } = statement;
        check_name(&name)?;
        if self.job.sinks.iter().any(|sink| sink.name == name.text) {
            return Err(taken(&name));
        }
        let view = self.view_index(&view)?;
        let (connector, _) = options.required("connector", "'parquet'")?;
        Ok(SinkSpec { name: name.text, view, connector, options: options.rest() })
    }
}

fn taken(name: &Name) -> SqlError {
    SqlError::at(name.place, format!("the name `{}` is taken", name.text))
}

/// Names become parts of topics, files and rooms.
fn check_name(name: &Name) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins = name.text.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    if begins && name.text.len() <= 64 && name.text.chars().all(plain) {
        return Ok(());
    }
    Err(SqlError::at(name.place, format!("the name `{}` is not made of a letter and then letters, digits and `_`, at most 64", name.text)))
}
