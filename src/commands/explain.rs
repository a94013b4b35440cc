//! `headend explain FILE`: the plan of a job. Nothing is joined, created or read beside the file.

use crate::cli::ExplainArgs;
use stream_jobs::sql;

pub fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let job = super::plan_file(&args.file, &super::functions(None)?)?;
    if args.json { super::print(super::pretty(&sql::explain_json(&job))) } else { super::print(sql::explain(&job).trim_end()) }
}
