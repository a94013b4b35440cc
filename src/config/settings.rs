//! The one list of settings: what the parser knows, what the README shows.

/// A setting of `headend.toml`.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub section: &'static str,
    pub key: &'static str,
    /// As it would stand in the file. `None`: it must be given, or it is optional; `about` says which.
    pub default: Option<&'static str>,
    pub about: &'static str,
}

const fn setting(section: &'static str, key: &'static str, default: Option<&'static str>, about: &'static str) -> Setting {
    Setting { section, key, default, about }
}

pub const SETTINGS: &[Setting] = &[
    setting("engine", "job", None, "The job file (`.sql`). Required."),
    setting("engine", "dir", Some("data"), "Folder of the embedded log, the snapshots and the sinks' cursors. Processes that share tasks over Kafka share it."),
    setting("engine", "partitions", Some("4"), "Partitions of every topic, and so the number of tasks. Cannot be changed later."),
    setting(
        "engine",
        "owner",
        Some("headend"),
        "The name with which this process claims tasks: over Kafka another one for each process, the same when it starts again.",
    ),
    setting("engine", "snapshot_every", Some("1000"), "A snapshot after this many epochs …"),
    setting("engine", "snapshot_interval", Some("10s"), "… or after this much time, whichever comes first."),
    setting("engine", "upkeep_interval", Some("1m"), "How often epoch records are deleted that no recovery, sink or gateway needs any more."),
    setting("engine", "cut_rows_max", Some("65536"), "The most rows that one epoch takes."),
    setting("engine", "cut_min_ms", Some("2"), "Least time between two cuts of a task."),
    setting("engine", "inflight", Some("4"), "Epoch records of a task that may be on their way to the log."),
    setting("engine", "threads", Some("auto"), "Worker threads; `auto` is one a core."),
    setting("log", "kind", Some("embedded"), "The log: `embedded`, a folder and one process; or `kafka`, many processes."),
    setting("log", "brokers", None, "Kafka's addresses, `host:port,host:port`. Required for `kafka`."),
    setting(
        "log",
        "replication",
        Some("auto"),
        "Copies of each partition of topics that are created; `auto` is three where there are three brokers, else one.",
    ),
    setting("log", "properties", None, "File of librdkafka's own settings, `name=value` lines: security and the like."),
    setting("log", "group_commit_ms", Some("5"), "The longest that an append waits for others to share its sync."),
    setting("gateway", "listen", Some("127.0.0.1:8080"), "Address of HTTP and WebSocket."),
    setting("gateway", "secret", None, "Key that signs tokens, 16 bytes or more. This or `secret_file` is required."),
    setting("gateway", "secret_file", None, "File that holds the key."),
    setting("gateway", "allowed_origins", Some("[]"), "Origins of pages that may connect, beside the page's own host."),
    setting("gateway", "ping", Some("25s"), "How often a client is pinged."),
    setting("models", "churn", None, "File of the model behind `churn_score`. Optional."),
];

/// The setting called `section.key`.
pub fn find(name: &str) -> Option<&'static Setting> {
    let (section, key) = name.split_once('.')?;
    SETTINGS.iter().find(|s| s.section == section && s.key == key)
}

/// `engine.dir` in the environment: `HEADEND_ENGINE_DIR`.
pub fn env_name(name: &str) -> String {
    format!("HEADEND_{}", name.replace('.', "_").to_uppercase())
}

/// Among `names`, the one that `wrong` was probably meant to be: at most a third of its letters differ.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names.map(|n| (distance(wrong, n), n)).min().filter(|(d, n)| d * 3 <= n.len().max(wrong.len())).map(|(_, n)| n)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let here = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], here);
        }
    }
    row[b.len()]
}

/// All settings as a Markdown table, as the README shows it.
pub fn markdown() -> String {
    let mut table = String::from("| setting | default | meaning |\n|---|---|---|\n");
    for s in SETTINGS {
        let default = s.default.map(|d| format!("`{d}`")).unwrap_or_default();
        table.push_str(&format!("| `{}.{}` | {default} | {} |\n", s.section, s.key, s.about));
    }
    table
}
