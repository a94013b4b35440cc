//! The churn model of the demo: the job's own SQL over the past up to a day, and who left in the 30 days after it.
//!
//! Features come out of the same views that are served later, point in time, so nothing trained on differs from what is served.

use super::{JOB, story::Story};
use crate::{engine::EngineConfig, try_job::Trial};
use anyhow::Context;
use models::{ChurnModel, TrainOptions, train};
use schemas::OutputKind;
use std::collections::{BTreeMap, BTreeSet};
use stream_jobs::{rooms::JsonRows, upstream::read_rows};

const DAY_US: i64 = 86_400_000_000;
/// A label is whether the subscriber left within this after the features' time.
const HORIZON_US: i64 = 30 * DAY_US;
/// The model's features, in the order in which the job hands them to `churn_score`.
const FEATURES: [&str; 7] =
    ["usage_decline_30d", "days_since_login", "payment_failures_90d", "tickets_90d", "session_drops_90d", "contract_age_months", "price_change_90d"];
const VIEW: &str = "churn_features";

pub async fn train_on_past(story: &Story, now_us: i64) -> anyhow::Result<ChurnModel> {
    let at_us = now_us - HORIZON_US;
    let features = features_at(story, at_us).await.context("cannot compute the features of the past")?;
    let left: BTreeSet<String> = story.churned().into_iter().filter(|(_, t)| *t > at_us && *t <= now_us).map(|(s, _)| s).collect();
    let labels: Vec<bool> = features.keys().map(|s| left.contains(s)).collect();
    let rows: Vec<Vec<Option<f64>>> = features.into_values().collect();
    let names: Vec<String> = FEATURES.iter().map(|f| (*f).to_owned()).collect();
    Ok(train(&names, &rows, &labels, TrainOptions { range: (at_us - 90 * DAY_US, at_us), ..TrainOptions::default() })?)
}

/// The features of every subscriber as they stood at `at_us`.
async fn features_at(story: &Story, at_us: i64) -> anyhow::Result<BTreeMap<String, Vec<Option<f64>>>> {
    let mut config = EngineConfig::new("operator", JOB);
    config.wanted = vec![VIEW.to_owned()];
    config.cut_min = std::time::Duration::ZERO;
    config.snapshot_every = u64::MAX;
    config.snapshot_interval = std::time::Duration::MAX;
    let trial = Trial::new(config).await?;
    let events = story.past().take_while(|e| e.event_time_us < at_us).collect();
    super::append(trial.log.as_ref(), events).await?;
    trial.close_sources().await?;
    let mut standing: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    trial
        .run(VIEW, |epoch| {
            for output in epoch.record.outputs.iter().filter(|o| o.name == VIEW && o.kind == OutputKind::Changes) {
                let delta = read_rows(output)?;
                let rows = JsonRows::new(&delta.batch)?;
                for row in 0..delta.len() {
                    let value = rows.object(row)?;
                    let subscriber = value["subscriber_id"].as_str().unwrap_or_default().to_owned();
                    if delta.op(row).adds() {
                        standing.insert(subscriber, FEATURES.iter().map(|f| value[*f].as_f64()).collect());
                    } else {
                        standing.remove(&subscriber);
                    }
                }
            }
            Ok(())
        })
        .await?;
    Ok(standing)
}
