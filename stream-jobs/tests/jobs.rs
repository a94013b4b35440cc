//! The job files that come with Headend plan, and say what the rest of the house relies on.

#![allow(clippy::unwrap_used)]

use models::{ChurnModel, TrainOptions, train};
use std::{fs, path::PathBuf, sync::Arc};
use stream_jobs::{
    plan::Job,
    sql::{CHURN_MODEL, FunctionContext, plan_job},
};

/// What `churn_score` takes in `operator.sql`, in order.
const FEATURES: [&str; 7] =
    ["usage_decline_30d", "days_since_login", "payment_failures_90d", "tickets_90d", "session_drops_90d", "contract_age_months", "price_change_90d"];

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("jobs");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "sql")).collect();
    files.sort();
    files
}

fn planned(file: &PathBuf, functions: &FunctionContext) -> Job {
    let name = file.file_stem().unwrap().to_str().unwrap();
    plan_job(name, &fs::read_to_string(file).unwrap(), functions).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn operator(functions: &FunctionContext) -> Job {
    let file = files().into_iter().find(|f| f.ends_with("operator.sql")).unwrap();
    planned(&file, functions)
}

fn model(features: &[&str]) -> FunctionContext {
    let rows: Vec<Vec<Option<f64>>> = (0..60).map(|i| features.iter().map(|_| Some(f64::from(i))).collect()).collect();
    let labels: Vec<bool> = (0..60).map(|i| i % 3 == 0).collect();
    let names: Vec<String> = features.iter().map(|f| (*f).to_owned()).collect();
    let model: ChurnModel = train(&names, &rows, &labels, TrainOptions::default()).unwrap();
    let mut context = FunctionContext::default();
    context.models.insert(CHURN_MODEL.to_owned(), Arc::new(model));
    context
}

#[test]
fn every_job_file_plans() {
    for file in files() {
        planned(&file, &FunctionContext::default());
    }
}

#[test]
fn the_operators_job_scores_the_features_that_its_model_has() {
    let job = operator(&model(&FEATURES));
    let features = job.views.iter().find(|v| v.name == "churn_features").unwrap();
    let columns: Vec<&str> = features.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert!(columns.ends_with(&FEATURES), "{columns:?}");
    assert!(features.uses_now, "time alone changes a score");
}

#[test]
fn a_model_of_other_features_is_refused_by_the_operators_job() {
    let mut features = FEATURES;
    features.swap(0, 1);
    let file = files().into_iter().find(|f| f.ends_with("operator.sql")).unwrap();
    let error = plan_job("operator", &fs::read_to_string(file).unwrap(), &model(&features)).unwrap_err();
    assert!(error.to_string().contains("days_since_login"), "{error}");
}

#[test]
fn the_operators_alerts_name_their_entity_their_rooms_and_how_they_clear() {
    let job = operator(&FunctionContext::default());
    let names: Vec<&str> = job.alerts.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["churn_high", "churn_critical", "usage_spike", "impossible_travel", "payment_fraud", "node_down"]);
    for alert in &job.alerts {
        let entity = if alert.name == "node_down" { "node_id" } else { "subscriber_id" };
        let view = &job.views[alert.view];
        assert!(view.key.iter().any(|c| view.schema.field(*c).name() == entity), "{}", alert.name);
        assert!(alert.tenant_column.is_some() && alert.clear.is_some() && !alert.rooms.is_empty(), "{}", alert.name);
    }
}

#[test]
fn demand_by_region_stands_above_the_subscribers_views() {
    let job = operator(&FunctionContext::default());
    let level = |name: &str| job.views.iter().find(|v| v.name == name).unwrap().level;
    assert_eq!(["churn_risk", "usage_spikes", "payment_failures_10m"].map(level), [1, 1, 1]);
    assert_eq!(["load_5m", "demand_factor", "load_10s", "demand_now"].map(level), [2, 2, 2, 2]);
}
