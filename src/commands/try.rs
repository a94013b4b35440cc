//! `headend try`: rows to standard output, counts to standard error.

use crate::{cli::TryArgs, try_job};
use anyhow::Context;
use std::io::BufWriter;

pub async fn run(args: TryArgs) -> anyhow::Result<()> {
    let report_file = args.report.clone();
    let mut out = BufWriter::new(std::io::stdout());
    let report = try_job::run(args, &mut out).await?;
    let counts = serde_json::to_value(&report)?;
    let line: Vec<String> = counts.as_object().into_iter().flatten().map(|(name, n)| format!("{name} {n}")).collect();
    eprintln!("{}", line.join(", "));
    if let Some(file) = report_file {
        std::fs::write(&file, super::pretty(&counts)).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    Ok(())
}
