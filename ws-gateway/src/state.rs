//! What all connections share: the hub, the settings, and the list of who is connected.

use crate::{
    config::GatewayConfig,
    health::Readiness,
    hub::Hub,
    outbox::Outbox,
    protocol::{Close, FORCE_RECONNECT, SHUTDOWN},
    rights::{Rights, Verifier},
};
use metrics_exporter_prometheus::PrometheusHandle;
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Handle of the gateway, cheap to clone.
#[derive(Clone)]
pub struct GatewayState {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub hub: Hub,
    pub config: GatewayConfig,
    pub verifier: Verifier,
    pub readiness: Readiness,
    pub metrics: PrometheusHandle,
    pub why: OnceLock<Why>,
    /// Names this process in connect replies.
    pub node: String,
    /// Owns the connections' tasks; [`GatewayState::shutdown`] waits for them.
    pub tasks: TaskTracker,
    registry: Mutex<Registry>,
}

/// Says why a view tells nothing, as JSON; none where there is no such view.
pub type Why = Arc<dyn Fn(&str) -> Option<serde_json::Value> + Send + Sync>;

#[derive(Default)]
struct Registry {
    connections: HashMap<u64, Arc<Outbox>>,
    by_ip: HashMap<IpAddr, usize>,
    by_user: HashMap<(Arc<str>, String), usize>,
    next: u64,
    draining: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("setting `gateway.secret` is empty")]
    NoSecret,
    #[error("setting `gateway.ping` must be longer than `gateway.pong_wait`")]
    Ping,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    ShuttingDown,
    TooMany,
    TooManyFromAddress,
}

impl GatewayState {
    pub fn new(hub: Hub, config: GatewayConfig, readiness: Readiness, metrics: PrometheusHandle) -> Result<Self, ConfigError> {
        if config.secret.is_empty() || config.previous_secret.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::NoSecret);
        }
        if config.ping <= config.pong_wait {
            return Err(ConfigError::Ping);
        }
        let verifier = Verifier::new(&config.secret, config.previous_secret.as_deref());
        let inner =
            Inner { hub, config, verifier, readiness, metrics, why: OnceLock::new(), node: random_id(), tasks: TaskTracker::new(), registry: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What answers `GET /v1/why/{view}`; the first counts.
    pub fn answer_why(&self, why: Why) {
        let _ = self.inner.why.set(why);
    }

    /// Number of open connections.
    pub fn connections(&self) -> usize {
        self.registry().connections.len()
    }

    /// Takes no more connections and closes those that are open with 3001, spread evenly over `pace`, so that their
    /// clients do not all come back at once. Returns when the last is gone or has been given its time.
    pub async fn shutdown(&self, pace: Duration) {
        self.inner.readiness.set_not_ready("gateway", "shutting down");
        let outboxes: Vec<Arc<Outbox>> = {
            let mut registry = self.registry();
            registry.draining = true;
            registry.connections.values().cloned().collect()
        };
        let (start, count) = (Instant::now(), u32::try_from(outboxes.len()).unwrap_or(u32::MAX));
        for (i, outbox) in (0..).zip(outboxes) {
            tokio::time::sleep_until(start + pace.mul_f64(f64::from(i) / f64::from(count))).await;
            outbox.close(SHUTDOWN);
        }
        self.inner.tasks.close();
        let patience = self.inner.config.write_wait + self.inner.config.close_wait;
        if tokio::time::timeout(patience, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.connections(), "connections did not close in time");
        }
    }

    /// Closes every connection with 3011; their clients come back.
    pub fn disconnect_all(&self) {
        self.close_all(FORCE_RECONNECT);
    }

    fn close_all(&self, close: Close) {
        self.registry().connections.values().for_each(|outbox| outbox.close(close));
    }

    pub(crate) fn admit(&self, ip: Option<IpAddr>) -> Result<Admission, Refusal> {
        let mut registry = self.registry();
        if registry.draining {
            return Err(Refusal::ShuttingDown);
        }
        if registry.connections.len() >= self.inner.config.connections_max {
            return Err(Refusal::TooMany);
        }
        if let Some(ip) = ip
            && !count_up(&mut registry.by_ip, ip, self.inner.config.connections_per_ip_max)
        {
            return Err(Refusal::TooManyFromAddress);
        }
        registry.next += 1;
        let (id, outbox) = (registry.next, Arc::new(Outbox::new(self.inner.config.queue_bytes_max)));
        registry.connections.insert(id, outbox.clone());
        metrics::gauge!("headend_gateway_connections").set(registry.connections.len() as f64);
        drop(registry);
        Ok(Admission { state: self.clone(), id, ip, outbox })
    }

    /// Counts one more connection of the user, or `None` past the limit.
    pub(crate) fn admit_user(&self, rights: &Rights) -> Option<UserAdmission> {
        let user = (rights.tenant.clone(), rights.user.clone());
        count_up(&mut self.registry().by_user, user.clone(), self.inner.config.connections_per_user_max).then(|| UserAdmission { state: self.clone(), user })
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_up<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, max: usize) -> bool {
    let count = counts.entry(key).or_default();
    let fits = *count < max;
    *count += usize::from(fits);
    fits
}

fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// A place among the connections, given back when it is dropped.
pub(crate) struct Admission {
    state: GatewayState,
    pub id: u64,
    ip: Option<IpAddr>,
    pub outbox: Arc<Outbox>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut registry = self.state.registry();
        registry.connections.remove(&self.id);
        if let Some(ip) = &self.ip {
            count_down(&mut registry.by_ip, ip);
        }
        metrics::gauge!("headend_gateway_connections").set(registry.connections.len() as f64);
    }
}

pub(crate) struct UserAdmission {
    state: GatewayState,
    user: (Arc<str>, String),
}

impl Drop for UserAdmission {
    fn drop(&mut self) {
        count_down(&mut self.state.registry().by_user, &self.user);
    }
}

/// A random number for jitter and names. Not a secret.
pub(crate) fn random() -> u64 {
    // The keys of a new hasher come from the system's random source: enough for this, and no dependency.
    RandomState::new().hash_one(0)
}

/// A random UUID, version 4.
pub(crate) fn random_id() -> String {
    let (a, b) = (random(), random());
    format!("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xfff, (b >> 48) & 0x3fff | 0x8000, b & 0xffff_ffff_ffff)
}
