//! `headend demo`: a generated operator, its churn model trained on its past, then live in the browser.
//!
//! Everything that follows the generated events is the real thing: the log on disk, the job of `stream-jobs/jobs/operator.sql`, the gateway,
//! and a client of its own that measures what a browser would see.

mod client;
mod report;
pub mod story;
mod training;

use crate::{
    cli::DemoArgs,
    engine::{EngineConfig, Totals},
    service::{self, Service},
};
use anyhow::Context;
use ingest::{EmbeddedConfig, EmbeddedLog, KafkaConfig, KafkaLog, Log};
use report::Report;
use schemas::{NewRecord, event::event_type};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use story::{DemoEvent, SUBSCRIBERS_DEFAULT, Story, TENANT};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use ws_gateway::{Claims, DemoSession, GatewayConfig, Role};

/// The job that the demo runs; also the example that a user copies.
pub const JOB: &str = include_str!("../../stream-jobs/jobs/operator.sql");
const PARTITIONS: u32 = 2;
/// Events of the past that are appended at a time.
const PAST_AT_ONCE: usize = 20_000;
/// Nothing of the story happens in the first seconds of a live stream.
const LEAD: Duration = Duration::from_secs(2);
/// How often live events that are due are sent.
const LIVE_EVERY: Duration = Duration::from_millis(10);

pub async fn run(args: DemoArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let started = Instant::now();
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await.with_context(|| format!("cannot listen on `127.0.0.1:{}`", args.port))?;
    let kept = Folder::new(args.dir.as_deref())?;
    let log = open_log(&args, kept.path()).await?;
    let address = listener.local_addr()?;
    crate::commands::print(format!(
        "headend demo on http://{address}\nthe operator `{TENANT}`, its {SUBSCRIBERS_DEFAULT} subscribers and their past are generated from seed {}",
        args.seed
    ))?;
    let now_us = now_us();
    let seed = args.seed;
    let story = Arc::new(tokio::task::spawn_blocking(move || Story::new(seed, now_us, SUBSCRIBERS_DEFAULT)).await?);
    let model = training::train_on_past(&story, now_us).await?;
    let file = model.save(&kept.path().join("models"))?;
    tracing::info!(file = %file.display(), auc = model.metrics.auc, brier = model.metrics.brier, rows = model.metrics.n, "churn model trained on the generated past");
    let secret = format!("{:032x}{:032x}", rand_like(seed, now_us), rand_like(now_us as u64, seed as i64));
    let gateway = GatewayConfig { demo_session: Some(DemoSession::new(TENANT, "demo", Role::Admin)), ..GatewayConfig::new(secret.clone()) };
    let engine = EngineConfig {
        models: BTreeMap::from([("churn".to_owned(), Arc::new(model))]),
        partitions: PARTITIONS,
        rooms: true,
        sink_dir: Some(kept.path().to_owned()),
        ..EngineConfig::new("operator", JOB)
    };
    let live_stop = stop.child_token();
    let mut report = Report::default();
    // The past first and the tasks then: they take it in a few large cuts, and tell what stands at the end of it.
    service::create_topics(log.as_ref(), PARTITIONS).await?;
    report.appended += append_past(&log, &story).await?;
    report.appended += append_lead(log.as_ref(), &story, f64::from(args.rate)).await?;
    let service = Service::start(engine, Arc::clone(&log), kept.path(), listener, gateway, stop.clone()).await?;
    let totals = Arc::clone(&service.totals);
    past_is_told(&service, report.appended, &stop).await;
    let live_from_us = self::now_us();
    let measured = client::start(address, &token(&secret)?, live_from_us, started, live_stop.clone()).await?;
    let counted = report::count_alerts(&log, PARTITIONS, live_stop.clone());
    let live = tokio::spawn(send_live(Arc::clone(&log), Arc::clone(&story), f64::from(args.rate), live_stop.clone()));
    let end = args.duration.map(|d| started + d);
    let serving = tokio::spawn(service.run());
    wait_for_end(end, &stop, &serving).await;
    live_stop.cancel();
    report.appended += live.await??;
    report.finish(&totals, measured, counted).await?;
    stop.cancel();
    serving.await??;
    log.close().await;
    report.write(args.report.as_deref())
}

/// The log of the demo, which nobody has used before.
async fn open_log(args: &DemoArgs, dir: &Path) -> anyhow::Result<Arc<dyn Log>> {
    let (log, used): (Arc<dyn Log>, String) = match &args.kafka {
        Some(brokers) => {
            let log = KafkaLog::open(KafkaConfig::new(brokers, "demo")).await.with_context(|| format!("cannot use Kafka at `{brokers}`"))?;
            (log, format!("the Kafka at `{brokers}` holds events already; the demo needs one that nobody uses"))
        }
        None => {
            let log = EmbeddedLog::open(&dir.join("log"), EmbeddedConfig::default()).with_context(|| format!("cannot open the log in `{}`", dir.display()))?;
            (log, format!("`{}` holds the log of an earlier demo; name another `--dir`", dir.display()))
        }
    };
    anyhow::ensure!(log.topics().await?.iter().all(|t| t.name != "usage.v1"), used);
    Ok(log)
}

/// Waits until the tasks have taken the past and its rows have reached the rooms, so that the live stream starts on an idle engine.
async fn past_is_told(service: &Service, appended: u64, stop: &CancellationToken) {
    let room = format!("risk:{TENANT}");
    let (mut seen, mut quiet) = (0, 0);
    while quiet < 4 && !stop.is_cancelled() && !service.has_stopped() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let offset = service.hub.room_position(&room).offset;
        let taken = Totals::get(&service.totals.rows_in) >= appended && Totals::get(&service.totals.working) == 0;
        quiet = if taken && offset == seen && offset > 0 { quiet + 1 } else { 0 };
        seen = offset;
    }
}

async fn wait_for_end(end: Option<Instant>, stop: &CancellationToken, serving: &tokio::task::JoinHandle<anyhow::Result<()>>) {
    loop {
        let left = end.map_or(Duration::from_secs(3600), |e| e.saturating_duration_since(Instant::now()));
        if left.is_zero() || serving.is_finished() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(left.min(Duration::from_millis(200))) => {}
        }
    }
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

/// A key for this run's tokens: nobody outside the run needs it.
fn rand_like(a: u64, b: i64) -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let state = RandomState::new();
    u128::from(state.hash_one((a, b, std::process::id()))) << 64 | u128::from(state.hash_one((b, a)))
}

fn token(secret: &str) -> anyhow::Result<String> {
    let exp = now_us() / 1_000_000 + 86_400;
    let claims: Claims = serde_json::from_value(serde_json::json!({ "sub": "meter", "tenant": TENANT, "role": "admin", "exp": exp }))?;
    Ok(ws_gateway::mint(secret, &claims)?)
}

async fn append_past(log: &Arc<dyn Log>, story: &Story) -> anyhow::Result<u64> {
    let mut sent = 0;
    let mut waiting: Vec<DemoEvent> = Vec::with_capacity(PAST_AT_ONCE);
    let mut events = story.past();
    loop {
        let event = events.next();
        let last = event.is_none();
        waiting.extend(event);
        if waiting.len() == PAST_AT_ONCE || last {
            sent += append(log.as_ref(), std::mem::take(&mut waiting)).await?;
        }
        if last {
            return Ok(sent);
        }
        tokio::task::yield_now().await;
    }
}

/// The last seconds of the past are everyday events as they come live: so every source is at the present when the live stream starts,
/// and what changes with the day has changed.
async fn append_lead(log: &dyn Log, story: &Story, rate: f64) -> anyhow::Result<u64> {
    let lead = LEAD.as_micros() as i64;
    append(log, story.live(now_us() - lead, rate).take_while(|e| e.due_us < lead).map(|e| e.event).collect()).await
}

/// Appends events to their topics, in order within each.
pub async fn append(log: &dyn Log, events: Vec<DemoEvent>) -> anyhow::Result<u64> {
    let n = events.len() as u64;
    let mut by_topic: BTreeMap<&str, Vec<NewRecord>> = BTreeMap::new();
    for event in events {
        let kind = event_type(event.event).with_context(|| format!("the story tells an unknown event `{}`", event.event))?;
        let key = kind.record_key(&event.payload).with_context(|| format!("a `{}` of the story has no key", event.event))?;
        by_topic.entry(kind.topic).or_default().push(NewRecord::new(key, serde_json::to_vec(&event.payload)?));
    }
    futures_util::future::try_join_all(by_topic.into_iter().map(|(topic, records)| log.append_keyed(topic, records))).await?;
    Ok(n)
}

/// Sends the live events as they fall due, until `stop`.
async fn send_live(log: Arc<dyn Log>, story: Arc<Story>, rate: f64, stop: CancellationToken) -> anyhow::Result<u64> {
    let started = Instant::now();
    let mut live = story.live(now_us(), rate).peekable();
    let mut sent = 0;
    let mut tick = tokio::time::interval(LIVE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(sent),
            _ = tick.tick() => {}
        }
        let elapsed_us = started.elapsed().as_micros() as i64;
        let mut due = Vec::new();
        while let Some(event) = live.next_if(|e| e.due_us <= elapsed_us) {
            due.push(event.event);
        }
        if !due.is_empty() {
            sent += append(log.as_ref(), due).await?;
        }
    }
}

/// The demo's folder: the one that was named, or one that is removed at the end.
enum Folder {
    Named(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(named: Option<&Path>) -> anyhow::Result<Self> {
        match named {
            Some(path) => {
                std::fs::create_dir_all(path).with_context(|| format!("cannot create `{}`", path.display()))?;
                Ok(Self::Named(path.to_owned()))
            }
            None => Ok(Self::Temporary(tempfile::Builder::new().prefix("headend-demo-").tempdir()?)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}
