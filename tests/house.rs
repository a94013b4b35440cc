//! The house rules that a machine can check: who depends on whom, which lints are on, what no file may say.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};
use toml::Table;

/// Folder of each crate; the root package stands above them all.
const CRATES: &[&str] = &["schemas", "ingest", "stream-jobs", "stream-jobs/models", "sinks", "ws-gateway", "."];

/// What a crate may import of the others.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("schemas", &[]),
    ("models", &[]),
    ("ingest", &["schemas"]),
    ("stream-jobs", &["schemas", "models"]),
    ("sinks", &["schemas"]),
    ("ws-gateway", &["schemas"]),
    ("headend", &["schemas", "models", "ingest", "stream-jobs", "sinks", "ws-gateway"]),
];

/// Dependencies that are one crate's business, and why.
const KEPT_IN: &[(&str, &[&str], &str)] = &[
    ("datafusion", &["stream-jobs"], "only `stream-jobs` plans SQL"),
    ("rdkafka", &["ingest", "sinks"], "only the log and the Kafka sink know the broker"),
    ("redb", &["ingest"], "only the embedded log knows its store"),
    ("linfa", &["models"], "models are trained and read in one place"),
    ("jsonwebtoken", &["ws-gateway"], "tokens are the gateway's"),
    ("axum", &["ingest", "ws-gateway"], "only the doors speak HTTP"),
    ("clap", &["headend"], "only the program has a command line"),
];

/// Nothing of these may stand in `schemas`, which does no IO.
const NOT_IN_SCHEMAS: &[&str] = &["tokio", "async-trait", "futures-util", "object_store"];

const LINTS: &[(&str, &str)] = &[
    ("rust", "unsafe_code"),
    ("clippy", "await_holding_lock"),
    ("clippy", "large_futures"),
    ("clippy", "print_stdout"),
    ("clippy", "todo"),
    ("clippy", "unimplemented"),
    ("clippy", "dbg_macro"),
    ("clippy", "unwrap_used"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    fs::read_to_string(&path).unwrap().parse().unwrap()
}

fn name(manifest: &Table) -> &str {
    manifest["package"]["name"].as_str().unwrap()
}

/// Names in the dependency tables of a manifest, those of single platforms included.
fn dependencies(manifest: &Table) -> BTreeSet<String> {
    dependencies_in(manifest, &["dependencies", "dev-dependencies", "build-dependencies"])
}

fn dependencies_in(manifest: &Table, tables: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (key, value) in manifest {
        match (key.as_str(), value.as_table()) {
            (key, Some(table)) if tables.contains(&key) => {
                let real = |(name, d): (&String, &toml::Value)| d.get("package").and_then(toml::Value::as_str).unwrap_or(name).to_owned();
                names.extend(table.iter().map(real));
            }
            ("target", Some(table)) => names.extend(table.values().filter_map(toml::Value::as_table).flat_map(|t| dependencies_in(t, tables))),
            _ => {}
        }
    }
    names
}

#[test]
fn every_member_of_the_workspace_is_known_here() {
    let workspace = manifest(".");
    let members: BTreeSet<&str> = workspace["workspace"]["members"].as_array().unwrap().iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(members, CRATES.iter().copied().collect(), "a crate was added or removed: say in tests/house.rs what it may import");
}

#[test]
fn siblings_never_import_each_other() {
    let ours: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    for folder in CRATES {
        let manifest = manifest(folder);
        let crate_name = name(&manifest);
        let (_, allowed) = MAY_IMPORT.iter().find(|(n, _)| *n == crate_name).unwrap();
        for dependency in dependencies(&manifest).iter().filter(|d| ours.contains(d.as_str())) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "`{crate_name}` imports `{dependency}`: siblings speak through `schemas`; what both need stands there, what joins them stands in `src/`"
            );
        }
    }
}

#[test]
fn what_is_one_crates_business_stays_there() {
    for folder in CRATES {
        let manifest = manifest(folder);
        let (crate_name, dependencies) = (name(&manifest), dependencies(&manifest));
        // A test may do to a broker what its owner would.
        let of_program = dependencies_in(&manifest, &["dependencies", "build-dependencies"]);
        for (dependency, homes, reason) in KEPT_IN {
            assert!(!of_program.contains(*dependency) || homes.contains(&crate_name), "`{crate_name}` depends on `{dependency}`, but {reason}");
        }
        if crate_name == "schemas" {
            for dependency in NOT_IN_SCHEMAS {
                assert!(!dependencies.contains(*dependency), "`schemas` depends on `{dependency}`, but it does no IO and nothing asynchronous");
            }
        }
    }
}

#[test]
fn every_crate_takes_versions_and_lints_from_the_workspace() {
    for folder in CRATES {
        let manifest = manifest(folder);
        let crate_name = name(&manifest);
        let inherits = manifest.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(inherits, Some(true), "`{crate_name}` does not take the workspace's lints");
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (dependency, how) in manifest.get(table).and_then(toml::Value::as_table).into_iter().flatten() {
                let shared = how.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                assert!(shared, "`{crate_name}` names a version of `{dependency}` of its own; there is one for the workspace");
            }
        }
    }
}

#[test]
fn every_lint_of_the_house_is_on() {
    let workspace = manifest(".");
    for (tool, lint) in LINTS {
        let level = workspace["workspace"]["lints"][tool].get(lint).and_then(toml::Value::as_str);
        assert!(matches!(level, Some("warn" | "deny" | "forbid")), "lint `{tool}::{lint}` is not on in the workspace, it is {level:?}");
    }
    let clippy = fs::read_to_string(root().join("clippy.toml")).unwrap();
    assert!(clippy.contains("tokio::sync::mpsc::unbounded_channel"), "clippy.toml does not forbid unbounded channels");
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    // Put together here, so that this file does not hold what it looks for.
    let words: Vec<String> = ["work", "root", "home"].iter().map(|w| format!("/{w}/")).collect();
    let mut faults = Vec::new();
    for path in files(root()) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (i, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|w| is_path_start(line, w)) {
                faults.push(format!("{}:{} holds `{word}`", path.strip_prefix(root()).unwrap().display(), i + 1));
            }
        }
    }
    assert!(faults.is_empty(), "absolute paths of a machine:\n{}", faults.join("\n"));
}

/// `word` begins a path: nothing of a longer path or an address stands before it.
fn is_path_start(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '*' | ')')))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "node_modules") {
                found.extend(files(&path));
            }
        } else if !name.ends_with(".log") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_readme_shows_every_setting_as_the_program_knows_it() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let table = headend::config::settings::markdown();
    assert!(readme.contains(table.trim_end()), "the README's table of settings differs from `headend check --settings`, which is:\n{table}");
}
