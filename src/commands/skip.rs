//! `headend skip TOPIC/PARTITION`: gives offsets up that the log has lost, so that the tasks which need them can go on.
//!
//! It is a record of the tasks' own chains: who recovers later sees it, and so does everybody who asks what became of these offsets.

use super::topics::open_log;
use crate::{
    cli::SkipArgs,
    config::Config,
    engine::{
        chain::ChainFollower,
        recovery,
        runner::{self, Skipper},
    },
    exit::Usage,
};
use anyhow::{Context, bail, ensure};
use ingest::Log;
use object_store::{ObjectStore, local::LocalFileSystem};
use schemas::{ChainPosition, CutRange, EpochHeader, EpochKind};
use std::sync::Arc;
use stream_jobs::{
    snapshot::SnapshotStore,
    task::{InputSpec, epoch_topic},
};

pub async fn run(args: &SkipArgs) -> anyhow::Result<()> {
    let (topic, partition) = parse(&args.input)?;
    let config = Config::load(&args.config.config)?;
    let engine = super::run::engine_config(&config)?;
    let (job, _) = engine.plan()?;
    let log = open_log(&config).await?;
    let files: Arc<dyn ObjectStore> =
        Arc::new(LocalFileSystem::new_with_prefix(&config.engine.dir).with_context(|| format!("cannot read `{}`", config.engine.dir.display()))?);
    let mut found = false;
    for skipper in runner::skippers(&engine, &job)? {
        for input in skipper.inputs.iter().filter(|i| matches!(i, InputSpec::Source { topic: t, partition: p, .. } if *t == topic && *p == partition)) {
            found = true;
            let skipped = skip(&log, &files, &skipper, input, (&topic, partition)).await;
            if skipped.is_err() {
                log.close().await;
            }
            let task = format!("{}/{}", skipper.group, skipper.task);
            match skipped? {
                Some(range) => {
                    super::print(format!("`{topic}/{partition}`: task {task} gives offsets {} to {} up and goes on at {}", range.from, range.to, range.to))?
                }
                None => super::print(format!("`{topic}/{partition}`: task {task} has lost nothing, and nothing was changed"))?,
            }
        }
    }
    log.close().await;
    if !found {
        let inputs: Vec<&str> = job.sources.iter().map(|s| s.topic.as_str()).collect();
        bail!(Usage(format!("no task reads `{topic}/{partition}`; topics are {} with partitions 0 to {}", inputs.join(", "), engine.partitions - 1)));
    }
    Ok(())
}

fn parse(input: &str) -> Result<(String, u32), Usage> {
    let parsed = input.rsplit_once('/').and_then(|(topic, partition)| Some((topic.to_owned(), partition.parse().ok()?)));
    parsed.ok_or_else(|| Usage(format!("`{input}` is no partition of a topic, expected TOPIC/PARTITION such as `usage.v1/2`")))
}

/// The range that was given up; `None` where the next offset is still there.
async fn skip(
    log: &Arc<dyn Log>,
    files: &Arc<dyn ObjectStore>,
    skipper: &Skipper,
    input: &InputSpec,
    (topic, partition): (&str, u32),
) -> anyhow::Result<Option<CutRange>> {
    let (position, next, needed_from) = stands(log, files, skipper, input).await?;
    let (start, end) = (log.start(topic, partition).await?, log.end(topic, partition).await?);
    let is_there = |offset: u64| (start..=end).contains(&offset);
    if is_there(next) && is_there(needed_from) {
        return Ok(None);
    }
    // What the state was computed from may be gone while what comes next is not.
    let range = CutRange { topic: topic.to_owned(), partition, from: next, to: if is_there(next) { next } else { start }, caught_up: false };
    let record = skipper.record(&position, vec![range.clone()])?;
    let epochs = epoch_topic(&skipper.group);
    let appended = log.append(&epochs, skipper.task, vec![record]).await.with_context(|| format!("cannot append to `{epochs}/{}`", skipper.task))?;
    ensure!(
        appended.base_offset == position.next_offset,
        "somebody works on task {}/{} at this moment: stop every `headend run` of this job, then try again",
        skipper.group,
        skipper.task
    );
    Ok(Some(range))
}

/// Where the task's chain ends, the next offset of its input, and the first one that its recovery reads.
async fn stands(log: &Arc<dyn Log>, files: &Arc<dyn ObjectStore>, skipper: &Skipper, input: &InputSpec) -> anyhow::Result<(ChainPosition, u64, u64)> {
    let store = SnapshotStore::new(Arc::clone(files), &skipper.group, skipper.task);
    let topic = epoch_topic(&skipper.group);
    let (mut from, mut inputs) = (ChainPosition::default(), vec![0; skipper.inputs.len()]);
    if let Some(newest) = store.list().await?.first() {
        let manifest = store.manifest(newest).await?;
        (from, inputs) = (manifest.position, manifest.inputs);
    }
    let place = skipper.inputs.iter().position(|i| i == input).context("the input is the task's")?;
    let mut needed_from = inputs[place];
    let mut follower = ChainFollower::new(log, &topic, skipper.task, from)?;
    let follow = |header: &EpochHeader| {
        // A claim has no cut.
        recovery::skip(&skipper.inputs, &mut inputs, &header.cut);
        if header.kind == EpochKind::Skip {
            // What came before it is given up as a whole, as far as this input is concerned.
            needed_from = inputs[place];
        }
    };
    follower.headers_to_end(follow).await?;
    Ok((follower.position(), inputs[place], needed_from))
}
