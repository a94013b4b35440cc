//! `headend demo`.

use crate::{cli::DemoArgs, demo};
use tokio_util::sync::CancellationToken;

pub async fn run(args: DemoArgs, stop: CancellationToken) -> anyhow::Result<()> {
    demo::run(args, stop).await
}
