//! `--variants`: many jobs in one run, a line each. Those that differ in what they do run through the engine over the log, as the
//! pipeline does, and once more by hand; how the cost grows with a size is measured by hand alone ([`scales`]).

use crate::{
    by_hand,
    events::Events,
    machine::{Took, machine},
    runs, say,
    scales::{self, KEYS, KEYS_LARGE, OPEN_WINDOWS},
    settings::{Settings, VIEW},
    timed::{self, Timed},
    told::{Expected, Told},
    variant::{Variant, variants},
};
use headend::engine::EngineConfig;
use ingest::Log;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path, sync::Arc};

pub struct Sweep<'a> {
    pub settings: &'a Settings,
    log: &'a Arc<dyn Log>,
    dir: &'a Path,
    /// Time of reading and decoding alone, of the topics that stand in the log.
    decoded: BTreeMap<String, Took>,
}

/// What has been told, and how many of the lines are errors.
#[derive(Default)]
struct Lines {
    all: Vec<Value>,
    failed: u64,
}

pub async fn measure(settings: &Settings, log: &Arc<dyn Log>, dir: &Path) -> anyhow::Result<Value> {
    let before = machine();
    let mut sweep = Sweep { settings, log, dir, decoded: BTreeMap::new() };
    let mut lines = Lines::default();
    for variant in variants(settings).iter().filter(|v| settings.wants(&v.name)) {
        lines.tell(&variant.name, sweep.variant(variant).await);
    }
    if settings.wants("snapshots") {
        lines.tell("snapshots", scales::snapshots(&mut sweep).await);
    }
    for keys in KEYS.into_iter().chain(settings.large.then_some(KEYS_LARGE)).filter(|_| settings.wants("keys")) {
        lines.tell(&format!("keys_{keys}"), scales::keys(settings, keys));
    }
    for open in OPEN_WINDOWS.into_iter().filter(|_| settings.wants("windows")) {
        lines.tell(&format!("windows_{open}"), scales::open_windows(settings, open));
    }
    if let Some(folder) = &settings.plots {
        scales::draw(&lines.all, folder)?;
    }
    let events = Events::new(&settings.stream());
    Ok(json!({
        "machine_before": before,
        "machine_after": machine(),
        "settings": settings.report(&events),
        "variants": lines.all,
        "failed": lines.failed,
    }))
}

impl Sweep<'_> {
    /// One job: through the engine, beside the time of reading and decoding alone, and by hand.
    async fn variant(&mut self, variant: &Variant) -> anyhow::Result<Value> {
        let events = Events::new(&variant.stream);
        let expected = events.expected(variant);
        let decoded = self.decoded(variant, &events).await?;
        if variant.joins_plans {
            runs::append_plans(&events, self.log).await?;
        }
        say("engine", &variant.name);
        let (timed, told) = self.run(self.settings.engine_of(variant), &expected).await?;
        say("by hand", &variant.name);
        let by_hand = by_hand::drive(self.settings, variant, &events)?;
        expected.check(&by_hand.told)?;
        let n = events.rows();
        let mut line = runs::report(&timed, n);
        line["events"] = json!(n);
        line["keys"] = json!(variant.stream.keys);
        line["rows_out"] = json!(told.rows);
        line["windows"] = json!(told.windows.len());
        line["ratio_to_read_decode"] = runs::ratio(&timed.took, decoded.wall.as_secs_f64(), decoded.cpu.as_secs_f64());
        line["by_hand"] = by_hand.report(n);
        line["differences"] = json!(0);
        line["sql"] = json!(variant.sql.trim());
        Ok(line)
    }

    /// Time of reading and decoding the variant's stream alone. A stream that does not stand in the log yet is put there.
    pub async fn decoded(&mut self, variant: &Variant, events: &Events) -> anyhow::Result<Took> {
        let topic = &variant.stream.topic;
        if let Some(took) = self.decoded.get(topic) {
            return Ok(*took);
        }
        say("append", topic);
        runs::append(events, self.log).await?;
        say("decode", topic);
        let took = runs::read_and_decode(&self.settings.engine_of(variant), events, self.log).await?;
        self.decoded.insert(topic.clone(), took);
        Ok(took)
    }

    /// Runs the engine and compares what it accepted with what must come out.
    pub async fn run(&self, config: EngineConfig, expected: &Expected) -> anyhow::Result<(Timed, Told)> {
        let timed = timed::run(config.clone(), self.log, VIEW, &self.dir.join("snapshots")).await?;
        let told = runs::verify(expected, &timed, self.log).await?;
        timed::forget(&config, self.log.as_ref()).await?;
        Ok((timed, told))
    }
}

impl Lines {
    /// Prints the line as soon as it is there. An error is a line too: the others still count.
    fn tell(&mut self, name: &str, told: anyhow::Result<Value>) {
        let mut line = json!({ "variant": name });
        match told {
            Ok(Value::Object(facts)) => facts.into_iter().for_each(|(fact, value)| line[fact.as_str()] = value),
            Ok(other) => line["told"] = other,
            Err(error) => {
                self.failed += 1;
                line["error"] = json!(format!("{error:#}"));
            }
        }
        println!("{line}");
        self.all.push(line);
    }
}
