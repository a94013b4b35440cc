//! How the cost of the base job grows: with snapshots, with keys, with windows that are open at once.

use crate::{
    by_hand::{self, ByHand},
    events::Events,
    plot::{Plot, write},
    runs, say,
    settings::{BOUND_S, EVENTS_A_KEY, Settings},
    sweep::Sweep,
    variant::{Stream, Variant},
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

pub const KEYS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
pub const KEYS_LARGE: u64 = 10_000_000;
pub const OPEN_WINDOWS: [u64; 4] = [1, 4, 16, 64];
/// Minutes of event time of the runs with open windows.
const MINUTES: u64 = 100;
const MINUTE_S: u64 = 60;

/// The engine without snapshots and with them, in turn, because the machine's speed moves. What is told is what they cost in percent.
pub async fn snapshots(sweep: &mut Sweep<'_>) -> anyhow::Result<Value> {
    let variant = Variant::base("snapshots", &sweep.settings.stream());
    let events = Events::new(&variant.stream);
    let expected = events.expected(&variant);
    sweep.decoded(&variant, &events).await?;
    // Of the runs without and of those with snapshots.
    let (mut wall_s, mut cpu_s) = ([0.0; 2], [0.0; 2]);
    let mut told = Vec::new();
    for (run, with) in [false, true, false, true].into_iter().enumerate() {
        say("engine", if with { "with snapshots" } else { "without snapshots" });
        let mut config = runs::named(sweep.settings, &variant, &format!("snapshots_{run}"));
        if !with {
            (config.snapshot_every, config.snapshot_interval) = (u64::MAX, Duration::MAX);
        }
        let (timed, _) = sweep.run(config, &expected).await?;
        wall_s[usize::from(with)] += timed.took.wall.as_secs_f64();
        cpu_s[usize::from(with)] += timed.took.cpu.as_secs_f64();
        let mut line = runs::report(&timed, events.rows());
        line["with_snapshots"] = json!(with);
        told.push(line);
    }
    let percent = |spent: [f64; 2]| crate::machine::round((spent[1] / spent[0].max(0.01) - 1.0) * 100.0);
    Ok(json!({
        "events": events.rows(),
        "snapshot_interval_ms": sweep.settings.snapshot_interval.as_millis() as u64,
        "cost_percent": { "wall": percent(wall_s), "cpu": percent(cpu_s) },
        "runs": told,
        "differences": 0,
    }))
}

/// So many keys, three events of each in a window, and as many windows as the events make.
pub fn keys(settings: &Settings, keys: u64) -> anyhow::Result<Value> {
    let round = keys * EVENTS_A_KEY;
    let stream = Stream { keys, events: (settings.events / round).max(1) * round, ..settings.stream() };
    let (seen, mut line) = driven(settings, &Variant::base(&format!("keys_{keys}"), &stream))?;
    line["state_bytes_per_key"] = json!(share(seen.state_bytes, keys));
    Ok(line)
}

/// So many windows are open at once, because the watermark stays so far behind.
pub fn open_windows(settings: &Settings, open: u64) -> anyhow::Result<Value> {
    let keys = settings.events / (MINUTES * EVENTS_A_KEY);
    let stream = Stream { keys, events: keys * MINUTES * EVENTS_A_KEY, ..settings.stream() };
    let bound_s = ((open - 1) * MINUTE_S) as i64 + BOUND_S;
    let (seen, mut line) = driven(settings, &Variant::tumble(&format!("windows_{open}"), &stream, bound_s))?;
    line["open_windows"] = json!(open);
    line["state_bytes_per_key_and_window"] = json!(share(seen.state_bytes, keys * open));
    Ok(line)
}

fn driven(settings: &Settings, variant: &Variant) -> anyhow::Result<(ByHand, Value)> {
    say("by hand", &variant.name);
    let events = Events::new(&variant.stream);
    let seen = by_hand::drive(settings, variant, &events)?;
    events.expected(variant).check(&seen.told)?;
    let n = events.rows();
    let line = json!({
        "events": n,
        "keys": variant.stream.keys,
        "task_ns_per_event": seen.process_ns(n),
        "by_hand": seen.report(n),
        "differences": 0,
    });
    Ok((seen, line))
}

fn share(bytes: u64, parts: u64) -> f64 {
    (bytes as f64 * 10.0 / parts as f64).round() / 10.0
}

/// The lines of the two scales as four plots.
pub fn draw(lines: &[Value], folder: &Path) -> anyhow::Result<()> {
    const TIME: (&str, &str) = ("task_ns_per_event", "ns of the task an event");
    let plots = [
        ("keys_ns", "keys_", ("keys", "keys"), TIME),
        ("keys_bytes", "keys_", ("keys", "keys"), ("state_bytes_per_key", "bytes of state a key")),
        ("windows_ns", "windows_", ("open_windows", "open windows"), TIME),
        ("windows_bytes", "windows_", ("open_windows", "open windows"), ("state_bytes_per_key_and_window", "bytes of state a key and window")),
    ];
    for (file, of, (x, x_label), (y, y_label)) in plots {
        let of_scale = lines.iter().filter(|line| line["variant"].as_str().is_some_and(|name| name.starts_with(of)));
        let points: Vec<(f64, f64)> = of_scale.filter_map(|line| Some((line[x].as_f64()?, line[y].as_f64()?))).collect();
        // One point is no line.
        if points.len() > 1 {
            write(&folder.join(format!("{file}.svg")), &Plot { x_label, y_label, points })?;
        }
    }
    Ok(())
}
