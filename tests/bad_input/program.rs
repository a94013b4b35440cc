//! The program as a user meets it: a folder with a job, a `headend run` in it, its door, and what its sink delivered.

use arrow_array::cast::AsArray;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a job and a configuration whose engine takes a free port.
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    pub fn new(job: &str) -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap() };
        folder.write("job.sql", job);
        folder.write("headend.toml", &toml("job.sql", "data", "127.0.0.1:0", SECRET));
        folder
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headend"));
        command.current_dir(self.path()).args(args).env_remove("HEADEND_LOG").env_remove("HEADEND_GATEWAY_SECRET");
        command
    }

    /// Exit code, standard output, standard error.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        said(&self.command(args).output().unwrap())
    }

    pub fn engine(&self) -> Engine {
        self.engine_of("headend.toml")
    }

    pub fn engine_of(&self, config: &str) -> Engine {
        self.engine_with(config, &[])
    }

    pub fn engine_with(&self, config: &str, args: &[&str]) -> Engine {
        let log = self.path().join(format!("{config}.err"));
        let err = File::options().create(true).append(true).open(&log).unwrap();
        let mut child = self.command(&["run", "-c", config]).args(args).stdout(Stdio::piped()).stderr(err).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = || std::fs::read_to_string(&log).unwrap();
        let address = line.trim().strip_prefix("headend runs on ").unwrap_or_else(|| panic!("it does not run: {}", said())).to_owned();
        Engine { child, address, log }
    }
}

pub fn toml(job: &str, dir: &str, listen: &str, secret: &str) -> String {
    format!("[engine]\njob = \"{job}\"\npartitions = 2\ndir = \"{dir}\"\n[gateway]\nlisten = \"{listen}\"\nsecret = \"{secret}\"\n")
}

pub fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A `headend run`; killed when the test is over.
pub struct Engine {
    pub child: Child,
    pub address: String,
    log: PathBuf,
}

impl Engine {
    /// Status and body; `None` where nobody answers.
    pub fn post(&self, body: impl AsRef<[u8]>) -> Option<(u16, String)> {
        post(&self.address, body.as_ref())
    }

    pub fn metrics(&self) -> String {
        ureq::get(format!("{}/metrics", self.address)).call().unwrap().body_mut().read_to_string().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal and waits: the exit code, and how long it took.
    pub fn stop(&mut self, signal: &str) -> (Option<i32>, Duration) {
        let started = Instant::now();
        kill(&self.child, signal);
        (self.child.wait().unwrap().code(), started.elapsed())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn kill(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success());
}

pub fn post(address: &str, body: &[u8]) -> Option<(u16, String)> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
    let request = agent.post(format!("{address}/v1/events/usage")).header("content-type", "application/x-ndjson");
    let mut response = request.send(body).ok()?;
    Some((response.status().as_u16(), response.body_mut().read_to_string().ok()?))
}

#[expect(clippy::disallowed_methods, reason = "it waits for another process, which tells nobody when it is so far")]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn usage(id: &str, event_time: &str, bytes_down: &str) -> String {
    format!("{{\"tenant\":\"acme\",\"subscriber_id\":\"s{}\",\"event_id\":\"{id}\",\"event_time\":\"{event_time}\",\"bytes_down\":{bytes_down}}}", id.len() % 3)
}

pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// How often each `event_id` stands in the files of the sink.
pub fn delivered(out: &Path) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    let mut folders = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "parquet") {
                let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
                for batch in reader.build().unwrap() {
                    let batch = batch.unwrap();
                    let column = arrow_cast::cast(batch.column_by_name("event_id").unwrap(), &arrow_schema::DataType::Utf8).unwrap();
                    for id in column.as_string::<i32>() {
                        *ids.entry(id.unwrap().to_owned()).or_default() += 1;
                    }
                }
            }
        }
    }
    ids
}

pub fn all_once(ids: impl IntoIterator<Item = String>, out: &Path) -> bool {
    let delivered = delivered(out);
    ids.into_iter().all(|id| delivered.get(&id) == Some(&1))
}

/// A small file system in memory; taken down when dropped.
pub struct SmallDisk {
    pub path: PathBuf,
}

impl SmallDisk {
    /// `None`, with a sentence, where mounting is not allowed.
    pub fn mount(path: PathBuf) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&path).output();
        if mounted.is_ok_and(|o| o.status.success()) {
            return Some(Self { path });
        }
        println!("left out: a tmpfs cannot be mounted here, which takes root");
        None
    }

    pub fn grow(&self) {
        assert!(Command::new("mount").args(["-o", "remount,size=64m"]).arg(&self.path).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
