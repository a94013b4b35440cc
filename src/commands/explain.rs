//! `headend explain FILE`: the plan of a job. Nothing is joined, created or read beside the file. `--why VIEW` asks a running engine.

use crate::{cli::ExplainArgs, engine::why::Why, exit::Usage};
use anyhow::{Context, bail};
use std::time::Duration;
use stream_jobs::sql;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    if let Some(view) = &args.why {
        return why(view, &args.at, args.json);
    }
    let file = args.file.as_ref().context("`explain` needs a job file, or `--why VIEW`")?;
    let job = super::plan_file(file, &super::functions(None)?)?;
    if args.json { super::print(super::pretty(&sql::explain_json(&job))) } else { super::print(sql::explain(&job).trim_end()) }
}

/// The answers of all processes as one: each knows its own tasks.
fn why(view: &str, addresses: &[String], json: bool) -> anyhow::Result<()> {
    let mut all = Why { view: view.to_owned(), tasks: Vec::new() };
    for address in addresses {
        all.tasks.extend(ask(address, view)?.tasks);
    }
    all.tasks.sort_by_key(|task| task.task);
    if json { super::print(serde_json::to_string_pretty(&all)?) } else { super::print(all.text()) }
}

fn ask(address: &str, view: &str) -> anyhow::Result<Why> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER_WITHIN)).build().into();
    let url = format!("{address}/v1/why/{view}");
    let mut answer = agent.get(&url).call().with_context(|| format!("no engine answers at `{address}`"))?;
    match answer.status().as_u16() {
        200 => answer.body_mut().read_json().with_context(|| format!("`{url}` is no answer of an engine")),
        404 => Err(Usage(format!("the job of the engine at `{address}` has no view `{view}`")).into()),
        status => bail!("`{url}` answered {status}"),
    }
}
