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
    /// How the alert stands after this revision.
    pub state: State,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledged>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silenced: Option<Silenced>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inhibited_by: Option<Incident>,
}

/// Of several that hold the first in this order counts: silenced, inhibited, flapping, acknowledged, firing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Firing,
    /// Somebody looks after it.
    Acknowledged,
    /// Its condition comes and goes; it stays open until that is over.
    Flapping,
    /// An alert of another rule explains it. Its rooms are not told.
    Inhibited,
    /// Its rooms are not told.
    Silenced,
    Resolved,
    Expired,
}

impl State {
    /// The rooms that the rule names are not told of it.
    pub fn is_quiet(self) -> bool {
        matches!(self, Self::Inhibited | Self::Silenced)
    }
}

/// Who looks after an alert, and since when (RFC 3339, UTC).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    pub at: String,
    pub by: Option<String>,
    pub comment: Option<String>,
}

/// Who silenced an alert, and until when (RFC 3339, UTC; none: until it is taken back).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silenced {
    pub until: Option<String>,
    pub by: Option<String>,
    pub comment: Option<String>,
}

/// The alert that explains another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub rule: String,
    pub alert_id: String,
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
