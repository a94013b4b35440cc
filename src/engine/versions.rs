//! The versions of a job. What a job was is kept beside its snapshots: epochs that an older version took are run again by it, and where
//! the next one takes over, its tasks get the state that is theirs.

use super::runner::{EngineConfig, StartError};
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use schemas::Versions;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};
use stream_jobs::{
    change::{Change, Refusal},
    plan::Job,
    sql::SqlError,
};

/// A version as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    versions: Versions,
    sql: String,
    /// Floats as their bits: reading them as text may be one unit in the last place off, and a score with them.
    models: BTreeMap<String, Value>,
}

/// One version of a job, in the order in which they ran.
pub struct JobVersion {
    pub versions: Versions,
    /// The engine's configuration, with this version's SQL and models.
    pub config: EngineConfig,
    job: OnceLock<Arc<Job>>,
}

impl JobVersion {
    pub fn job(&self) -> Result<Arc<Job>, SqlError> {
        if let Some(job) = self.job.get() {
            return Ok(Arc::clone(job));
        }
        let (job, _) = self.config.plan()?;
        Ok(Arc::clone(self.job.get_or_init(|| job)))
    }
}

/// All versions of a job that are known, the running one last.
pub struct JobHistory {
    versions: Vec<Arc<JobVersion>>,
}

/// Why a job cannot take the place of the one before it.
#[derive(Debug, thiserror::Error)]
#[error("job `{job}` was changed, and cannot go on with the state that it has:\n  {}", .refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
pub struct ChangeError {
    pub job: String,
    pub refusals: Vec<Refusal>,
}

impl JobHistory {
    /// What the store knows of the job, without the SQL at hand; empty where it never ran.
    pub async fn known(config: &EngineConfig, store: &dyn ObjectStore) -> Result<Self, StartError> {
        let mut files: Vec<Path> = store.list(Some(&Path::from(folder(&config.job_name)))).map_ok(|o| o.location).try_collect().await?;
        files.sort_unstable();
        let mut versions = Vec::with_capacity(files.len());
        for file in files {
            let damaged = |reason: String| StartError::KeptJob { file: file.to_string(), reason };
            let number: u64 =
                file.filename().and_then(|name| name.strip_suffix(".json")?.parse().ok()).ok_or_else(|| damaged("it has no number".to_owned()))?;
            let bytes = store.get(&file).await?.bytes().await?;
            let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
            let model = |(name, kept): (String, Value)| Ok((name, Arc::new(serde_json::from_value(from_bits(kept))?)));
            let models = kept.models.into_iter().map(model).collect::<Result<_, serde_json::Error>>().map_err(|e| damaged(e.to_string()))?;
            let config = EngineConfig { sql: kept.sql, models, ..config.clone() };
            versions.push(Arc::new(JobVersion { versions: Versions { number, ..kept.versions }, config, job: OnceLock::new() }));
        }
        Ok(Self { versions })
    }

    /// What is otherwise in the job at hand than in the one that ran last; `None` where nothing is, or none did.
    pub fn change(&self, config: &EngineConfig, job: &Job) -> Result<Option<Change>, StartError> {
        let Some(last) = self.versions.last().filter(|_| !self.is_current(config, job)) else { return Ok(None) };
        Ok(Some(between(&*last.job()?, job)?))
    }

    /// The job at hand is the version that ran last.
    pub fn is_current(&self, config: &EngineConfig, job: &Job) -> bool {
        self.versions.last().is_some_and(|last| last.versions == versions(config, job, last.versions.number))
    }

    /// The history with the job at hand as its last version, kept before any task runs it.
    pub async fn open(config: &EngineConfig, job: &Arc<Job>, store: &dyn ObjectStore) -> Result<Self, StartError> {
        loop {
            let mut known = Self::known(config, store).await?;
            let change = known.change(config, job)?;
            let Some(change) = change.or_else(|| known.versions.is_empty().then(Change::default)) else { return Ok(known) };
            for told in change.told() {
                tracing::info!(job = job.name, "changed: {told}");
            }
            let number = known.versions.last().map_or(1, |last| last.versions.number + 1);
            let versions = versions(config, job, number);
            let file = Path::from(format!("{}/{number:06}.json", folder(&job.name)));
            let unwritable = |e: serde_json::Error| StartError::KeptJob { file: file.to_string(), reason: e.to_string() };
            let model = |(name, model): (&String, &Arc<models::ChurnModel>)| Ok((name.clone(), to_bits(serde_json::to_value(model.as_ref())?)));
            let models = config.models.iter().map(model).collect::<Result<_, _>>().map_err(unwritable)?;
            let bytes = serde_json::to_vec(&Kept { versions: versions.clone(), sql: config.sql.clone(), models }).map_err(unwritable)?;
            match store.put_opts(&file, bytes.into(), PutOptions { mode: PutMode::Create, ..PutOptions::default() }).await {
                Ok(_) => {
                    let version = JobVersion { versions, config: config.clone(), job: OnceLock::from(Arc::clone(job)) };
                    known.versions.push(Arc::new(version));
                    return Ok(known);
                }
                // Another process has started with a change at the same moment.
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The version that runs.
    pub fn current(&self) -> Option<&Arc<JobVersion>> {
        self.versions.last()
    }

    /// The version under these names and this number.
    pub fn find(&self, versions: &Versions) -> Option<&Arc<JobVersion>> {
        self.versions.iter().find(|v| v.versions == *versions)
    }

    /// The versions on the way from one to a later one, with what each changed.
    pub fn steps(&self, from: &JobVersion, to: &JobVersion) -> Result<Vec<(Arc<JobVersion>, Change)>, StartError> {
        let mut steps = Vec::new();
        let on_the_way = |v: &&Arc<JobVersion>| (from.versions.number..=to.versions.number).contains(&v.versions.number);
        let all: Vec<&Arc<JobVersion>> = self.versions.iter().filter(on_the_way).collect();
        for pair in all.windows(2) {
            let job = pair[1].job()?;
            steps.push((Arc::clone(pair[1]), between(&*pair[0].job()?, &job)?));
        }
        Ok(steps)
    }
}

fn between(old: &Job, new: &Job) -> Result<Change, ChangeError> {
    Change::between(old, new).map_err(|refusals| ChangeError { job: new.name.clone(), refusals })
}

/// Where the versions of a job are kept, each under its number.
fn folder(job: &str) -> String {
    format!("jobs/{job}")
}

pub fn versions(config: &EngineConfig, job: &Job, number: u64) -> Versions {
    Versions {
        engine: env!("CARGO_PKG_VERSION").to_owned(),
        sql: job.sql_hash.clone(),
        models: config.models.iter().map(|(name, m)| format!("{name}-{}", m.version)).collect(),
        number,
    }
}

const BITS: &str = "f64_bits";

/// The value with every float as the hexadecimal text of its bits.
fn to_bits(value: Value) -> Value {
    match value {
        Value::Number(n) if n.is_f64() => serde_json::json!({ BITS: format!("{:016x}", n.as_f64().unwrap_or_default().to_bits()) }),
        Value::Array(items) => items.into_iter().map(to_bits).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, field)| (name, to_bits(field))).collect(),
        other => other,
    }
}

fn from_bits(value: Value) -> Value {
    match value {
        Value::Object(fields) => match fields.get(BITS).and_then(|bits| u64::from_str_radix(bits.as_str()?, 16).ok()) {
            Some(bits) => f64::from_bits(bits).into(),
            None => fields.into_iter().map(|(name, field)| (name, from_bits(field))).collect(),
        },
        Value::Array(items) => items.into_iter().map(from_bits).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_float_is_read_as_it_was() {
        let floats = (0..10_000_u64).map(|n| f64::from_bits(xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes()))).filter(|f| f.is_finite());
        for float in floats.chain([0.1, -0.0, f64::MIN_POSITIVE, f64::MAX, 5e-324]) {
            let text = serde_json::to_string(&to_bits(serde_json::json!({ "a": [float, 1, "x"] }))).unwrap();
            let read = from_bits(serde_json::from_str(&text).unwrap());
            assert_eq!(read["a"][0].as_f64().map(f64::to_bits), Some(float.to_bits()));
            assert_eq!(read["a"][1], serde_json::json!(1));
        }
    }
}
