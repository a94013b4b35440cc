//! A real Apache Kafka for a test, started and stopped by `scripts/kafka`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

pub struct Broker {
    dir: tempfile::TempDir,
    /// `host:port,…`
    pub addresses: String,
}

fn script(root: &Path) -> PathBuf {
    root.join("scripts/kafka")
}

impl Broker {
    /// `None`, with a line that says so, where Kafka cannot run here; with `HEADEND_REQUIRE_KAFKA=1` that is a failure.
    pub fn start(root: &Path, brokers: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let started = run(root, dir.path(), &["start", "--port", "0", "--brokers", &brokers.to_string()]);
        if !started.status.success() {
            let said = String::from_utf8_lossy(&started.stderr).into_owned();
            assert!(std::env::var_os("HEADEND_REQUIRE_KAFKA").is_none_or(|v| v != "1"), "Kafka does not start: {said}");
            println!("left out: Kafka does not start here: {said}");
            return None;
        }
        let said = String::from_utf8(started.stdout).unwrap();
        let addresses = said.lines().find_map(|l| l.strip_prefix("kafka on ")).unwrap_or_else(|| panic!("it names no address: {said}")).trim().to_owned();
        Some(Self { dir, addresses })
    }

    /// SIGKILL.
    #[allow(dead_code, reason = "shared by several test programs")]
    pub fn kill(&self, root: &Path, broker: u32) {
        assert!(run(root, self.dir.path(), &["kill", "--broker", &broker.to_string()]).status.success());
    }

    /// Starts what does not run.
    #[allow(dead_code, reason = "shared by several test programs")]
    pub fn restart(&self, root: &Path) {
        let started = run(root, self.dir.path(), &["start"]);
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    }

    pub fn stop(self, root: &Path) {
        assert!(run(root, self.dir.path(), &["stop"]).status.success());
    }
}

impl Drop for Broker {
    /// Of a test that failed.
    fn drop(&mut self) {
        for file in std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let pid = file.path().extension().is_some_and(|e| e == "pid").then(|| std::fs::read_to_string(file.path()).ok()).flatten();
            if let Some(pid) = pid {
                let _ = Command::new("kill").args(["-9", pid.trim()]).stderr(Stdio::null()).status();
            }
        }
    }
}

fn run(root: &Path, dir: &Path, args: &[&str]) -> Output {
    Command::new(script(root)).args(args).arg("--dir").arg(dir).output().unwrap()
}
