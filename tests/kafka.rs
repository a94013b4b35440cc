//! Two `headend run` over one Kafka: tasks are shared, taken over, fenced, and nothing is lost or twice.

#[path = "../ingest/tests/all/broker.rs"]
pub mod broker;

use super::bad_input::{
    JOB,
    program::{Engine, Folder, SECRET, delivered, eventually, kill, now, post},
};
use broker::Broker;
use serde_json::Value;
use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const ROOM: &str = "CREATE SINK newest FROM down WITH (connector = 'room', room = 'risk:{tenant}', type = 'state', key = 'subscriber_id');\n";
const PARTITIONS: usize = 4;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn config(owner: &str, brokers: &str) -> String {
    format!(
        "[engine]\njob = \"job.sql\"\npartitions = {PARTITIONS}\ndir = \"data\"\nowner = \"{owner}\"\n[log]\nkind = \"kafka\"\nbrokers = \"{brokers}\"\n\
         [gateway]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n"
    )
}

/// Posts events, one after the other, to whoever answers; keeps the ids that were acknowledged. None is sent twice.
struct Sender {
    address: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Sender {
    fn start(engine: &Engine) -> Self {
        let (address, stop, sent) = (Arc::new(Mutex::new(engine.address.clone())), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (to, stopped, counted) = (Arc::clone(&address), Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                let id = format!("e{n}");
                let event =
                    format!("{{\"tenant\":\"acme\",\"subscriber_id\":\"s{}\",\"event_id\":\"{id}\",\"event_time\":\"{}\",\"bytes_down\":1}}", n % 16, now());
                let to = to.lock().unwrap().clone();
                if let Some((200, _)) = post(&to, event.as_bytes()) {
                    acknowledged.push(id);
                    counted.fetch_add(1, Ordering::AcqRel);
                }
            }
            acknowledged
        });
        Self { address, stop, sent, thread }
    }

    fn turn_to(&self, engine: &Engine) {
        engine.address.clone_into(&mut self.address.lock().unwrap());
    }

    fn goes_on(&self) {
        let before = self.sent.load(Ordering::Acquire);
        eventually("events are accepted", || self.sent.load(Ordering::Acquire) > before + 50);
    }

    fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

/// How often the process has claimed a task of level 1.
fn claims(engine: &Engine) -> usize {
    engine.log().lines().filter(|l| l.contains("claimed group=\"job.l1\"")).count()
}

/// A state room as the process serves it: epoch, offset, rows.
fn room(engine: &Engine, token: &str) -> Value {
    let request = ureq::get(format!("{}/v1/rooms/risk:acme/state", engine.address)).header("authorization", format!("Bearer {token}"));
    request.call().unwrap().body_mut().read_json().unwrap()
}

#[test]
fn two_processes_share_tasks_take_over_from_the_dead_and_the_paused_and_lose_nothing() {
    let Some(broker) = Broker::start(root(), 1) else { return };
    let folder = Folder::new(&format!("{JOB}{ROOM}"));
    folder.write("one.toml", &config("one", &broker.addresses));
    folder.write("two.toml", &config("two", &broker.addresses));
    let mut one = folder.engine_of("one.toml");
    eventually("the first has all tasks", || claims(&one) == PARTITIONS);
    let mut two = folder.engine_of("two.toml");
    eventually("the second has half of them", || claims(&two) == PARTITIONS / 2);
    let sender = Sender::start(&one);
    sender.goes_on();

    let killed = Instant::now();
    let before = claims(&one);
    two.stop("KILL");
    eventually("the first takes over from the dead", || claims(&one) == before + PARTITIONS / 2);
    println!("taken over {:?} after the kill", killed.elapsed());
    sender.goes_on();

    let mut two = folder.engine_of("two.toml");
    eventually("who comes back has tasks again", || claims(&two) >= PARTITIONS / 2);
    sender.turn_to(&two);
    sender.goes_on();

    let (before, paused) = (claims(&two), Instant::now());
    kill(&one.child, "STOP");
    eventually("the second takes over from the paused", || claims(&two) >= before + PARTITIONS / 2);
    println!("taken over {:?} after the pause", paused.elapsed());
    sender.goes_on();
    kill(&one.child, "CONT");
    sender.goes_on();

    let acknowledged = sender.finish();
    let out = folder.path().join("data/out");
    let complete = || {
        let delivered = delivered(&out);
        acknowledged.iter().all(|id| delivered.contains_key(id))
    };
    eventually("everything acknowledged is in the sink", complete);
    let twice: Vec<_> = delivered(&out).into_iter().filter(|(_, n)| *n != 1).collect();
    assert!(twice.is_empty(), "more than once: {twice:?}");
    let (_, token, _) = folder.run(&["token", "-c", "one.toml", "--tenant", "acme", "--role", "admin", "--json"]);
    let token: Value = serde_json::from_str(&token).unwrap();
    let token = token["token"].as_str().unwrap();
    eventually("both serve the room at the same offset, with the same rows", || {
        let (of_one, of_two) = (room(&one, token), room(&two, token));
        of_one == of_two && of_one["offset"].as_u64() >= Some(acknowledged.len() as u64)
    });
    let (code, tasks, err) = folder.run(&["tasks", "-c", "one.toml", "--json"]);
    assert_eq!(code, 0, "{err}");
    let tasks: Vec<Value> = serde_json::from_str(&tasks).unwrap();
    assert_eq!(tasks.len(), PARTITIONS + 1);
    for task in tasks {
        assert!(["one", "two"].contains(&task["owner"].as_str().unwrap()) && task["epoch"].as_u64() > Some(0), "{task}");
    }
    for engine in [&mut one, &mut two] {
        let (code, took) = engine.stop("TERM");
        assert_eq!(code, Some(0), "{}", engine.log());
        assert!(took < Duration::from_secs(20), "it took {took:?}");
        println!("stopped in {took:?}");
        assert!(!engine.log().contains("came out differently"), "{}", engine.log());
    }
    broker.stop(root());
}

#[test]
fn a_second_process_of_the_same_name_takes_the_tasks_and_ends_the_first_with_what_to_do() {
    let Some(broker) = Broker::start(root(), 1) else { return };
    let folder = Folder::new(JOB);
    folder.write("one.toml", &config("one", &broker.addresses));
    folder.write("same.toml", &config("one", &broker.addresses));
    let mut first = folder.engine_of("one.toml");
    eventually("the first has all tasks", || claims(&first) == PARTITIONS);
    let mut second = folder.engine_of("same.toml");
    eventually("the first ends", || first.child.try_wait().unwrap().is_some());
    assert_eq!(first.child.wait().unwrap().code(), Some(1));
    let said = first.log();
    assert!(said.contains("error: Kafka ended this process's membership `one` in the group of `epochs.job."), "{said}");
    assert!(said.contains("hint: another process runs under the same name: give each an `engine.owner` of its own"), "{said}");
    eventually("the second has all tasks", || claims(&second) >= PARTITIONS);
    assert_eq!(second.stop("TERM").0, Some(0), "{}", second.log());
    broker.stop(root());
}

#[test]
fn a_broker_that_is_not_there_ends_run_with_75_and_its_address() {
    let folder = Folder::new(JOB);
    folder.write("one.toml", &config("one", "127.0.0.1:1"));
    let (code, _, err) = folder.run(&["run", "-c", "one.toml"]);
    assert_eq!(code, 75, "{err}");
    assert!(err.contains("\nerror: cannot use Kafka at `127.0.0.1:1`: cannot reach Kafka") && err.contains("\nhint: "), "{err}");
}
