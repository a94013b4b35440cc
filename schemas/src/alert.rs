//! An alert event, as rooms, sinks and webhooks carry it.

use serde::{Deserialize, Serialize};

/// One revision of one alert. `alert_id` is a hash of (tenant, rule, rule version, key, episode number): the same
/// on every replay. `revision` counts from 1 within it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertEvent {
    pub alert_id: String,
    pub revision: u64,
    pub rule: String,
    pub rule_version: String,
    pub tenant: String,
    pub entity: Entity,
    pub kind: String,
    pub action: Action,
    pub severity: String,
    pub score: Option<f64>,
    pub threshold: Threshold,
    pub previous: Option<f64>,
    pub reasons: Vec<Reason>,
    /// RFC 3339, UTC.
    pub starts_at: String,
    pub last_seen_at: String,
    pub resolved_at: Option<String>,
    pub window: Option<Window>,
    pub summary: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    #[serde(rename = "type")]
    pub kind: String,
    pub id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Raise,
    Update,
    Ack,
    Resolve,
    Expire,
}

/// The conditions of the rule, as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    pub raise: String,
    pub clear: Option<String>,
}

/// One reason of a score: a feature, its value, the value it is compared with, and its exact share of the score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    pub feature: String,
    pub value: Option<f64>,
    pub baseline: Option<f64>,
    pub contribution: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub start: String,
    pub end: String,
}
