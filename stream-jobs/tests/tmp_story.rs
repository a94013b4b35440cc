#![allow(clippy::unwrap_used, dead_code)]
#[path = "../../src/demo"]
mod demo { pub mod story; }
use demo::story::*;
use arrow_array::*;
use arrow_schema::DataType;
use models::{train, TrainOptions};
use std::{collections::*, sync::{Arc, atomic::Ordering}, time::Instant};
use stream_jobs::{plan::Job, sql::*, task::*};
use schemas::{SourceBatch, event::event_type, OutputKind};

const NOW: i64 = 1_795_282_933_000_000;
const FEATURES: [&str; 7] = ["usage_decline_30d", "days_since_login", "payment_failures_90d", "tickets_90d", "session_drops_90d", "contract_age_months", "price_change_90d"];

fn batch(job: &Job, source: usize, events: &[&DemoEvent], from: u64) -> SourceBatch {
    let spec = &job.sources[source];
    let cols: Vec<ArrayRef> = spec.schema.fields().iter().map(|f| {
        let v = |e: &&DemoEvent| e.payload.get(f.name()).cloned().unwrap_or(serde_json::Value::Null);
        match f.data_type() {
            DataType::Utf8 => Arc::new(StringArray::from_iter(events.iter().map(|e| v(e).as_str().map(str::to_owned)))) as ArrayRef,
            DataType::Int64 => Arc::new(Int64Array::from_iter(events.iter().map(|e| v(e).as_i64()))),
            DataType::Float64 => Arc::new(Float64Array::from_iter(events.iter().map(|e| v(e).as_f64()))),
            _ => Arc::new(TimestampMicrosecondArray::from_iter(events.iter().map(|e| v(e).as_str().map(|s| schemas::clock::parse_rfc3339(s).unwrap()))).with_timezone("UTC")),
        }
    }).collect();
    let keys: Vec<String> = events.iter().map(|e| event_type(e.event).unwrap().record_key(&e.payload).unwrap()).collect();
    let n = events.len();
    SourceBatch { topic: spec.topic.clone(), partition: 0, from, to: from + n as u64, rows: RecordBatch::try_new(spec.schema.clone(), cols).unwrap(),
        keys: BinaryArray::from_iter_values(keys.iter()), offsets: UInt64Array::from_iter_values(from..from + n as u64), append_us: Int64Array::from_iter_values(events.iter().map(|e| e.event_time_us)),
        tombstones: None, end_of_source: None, dead: vec![] }
}

struct Run { job: Arc<Job>, task: LevelTask, offsets: HashMap<usize, u64> }
impl Run {
    fn new(ctx: &FunctionContext, wanted: &[&str]) -> Self {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/operator.sql")).unwrap();
        let job = Arc::new(plan_job("operator", &text, ctx).unwrap());
        let now = ctx.now_us.clone();
        let wanted: Vec<String> = wanted.iter().map(|s| s.to_string()).collect();
        let task = LevelTask::new(&job, 1, 0, Partitions { level1: 1, upper: 1 }, &wanted, Arc::new(move |us| now.store(us, Ordering::Relaxed))).unwrap();
        Self { job, task, offsets: HashMap::new() }
    }
    fn epoch(&mut self, events: &[DemoEvent], now_ms: i64) -> EpochOutput {
        let specs = self.task.inputs().to_vec();
        let inputs = specs.iter().map(|s| {
            let InputSpec::Source { source, .. } = s else { panic!() };
            let topic = &self.job.sources[*source].topic;
            let mine: Vec<&DemoEvent> = events.iter().filter(|e| event_type(e.event).unwrap().topic == topic).collect();
            let from = *self.offsets.entry(*source).or_default();
            self.offsets.insert(*source, from + mine.len() as u64);
            let content = if mine.is_empty() { Content::Nothing } else { Content::Source(batch(&self.job, *source, &mine, from), Arc::new(vec![])) };
            InputCut { from, to: from + mine.len() as u64, caught_up: true, content }
        }).collect();
        self.task.process(EpochInput { now_ms, inputs }).unwrap()
    }
}

#[test]
fn story_through_the_job() {
    let story = Story::new(7, NOW, 2000);
    let past: Vec<DemoEvent> = story.past().collect();
    let churned: HashMap<String, i64> = story.churned().into_iter().collect();
    // pass 1: features at five times
    let mut run = Run::new(&FunctionContext::default(), &["churn_features"]);
    let t = Instant::now();
    let (mut rows, mut labels) = (vec![], vec![]);
    let mut table: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    let mut snaps: VecDeque<i64> = [58, 51, 44, 37, 30].iter().map(|d| NOW - d * 86_400_000_000).collect();
    for chunk in past.chunks(4096) {
        let mut outs = run.epoch(chunk, NOW / 1000).outputs;
        while run.task.waiting_bytes() > 0 { outs.extend(run.epoch(&[], NOW / 1000).outputs); }
        for o in outs.iter().filter(|o| o.name == "churn_features") {
            let b = &o.batch;
            let s = |n: &str| b.column_by_name(n).unwrap().as_any().downcast_ref::<StringArray>().unwrap().clone();
            let (op, id) = (s("_op"), s("subscriber_id"));
            for r in 0..b.num_rows() {
                match op.value(r) { "-U" => {}, "-D" => { table.remove(id.value(r)); }
                    _ => { table.insert(id.value(r).to_owned(), FEATURES.iter().map(|f| { let c = b.column_by_name(f).unwrap().as_any().downcast_ref::<Float64Array>().unwrap().clone(); c.is_valid(r).then(|| c.value(r)) }).collect()); } }
            }
        }
        while snaps.front().is_some_and(|s| *s <= chunk.last().unwrap().event_time_us) {
            let at = snaps.pop_front().unwrap();
            for (id, x) in &table { let left = churned.get(id).copied().unwrap_or(i64::MAX); if left > at { rows.push(x.clone()); labels.push(left <= at + 30 * 86_400_000_000); } }
        }
    }
    eprintln!("pass 1 {:?}, {} rows, table {}", t.elapsed(), rows.len(), table.len());
    let model = train(&FEATURES.map(str::to_owned), &rows, &labels, TrainOptions::default()).unwrap();
    eprintln!("{:?} {:?}", model.metrics, model.weights);
    let mut ctx = FunctionContext::default();
    ctx.models.insert(CHURN_MODEL.to_owned(), Arc::new(model));
    let mut run = Run::new(&ctx, &["churn_risk"]);
    let t = Instant::now();
    let mut past_alerts = BTreeMap::new();
    for chunk in past.chunks(4096) {
        let mut outs = run.epoch(chunk, NOW / 1000).outputs;
        while run.task.waiting_bytes() > 0 { outs.extend(run.epoch(&[], NOW / 1000).outputs); }
        for o in outs { *past_alerts.entry(format!("rows {}", o.name)).or_default() += o.batch.num_rows() as u64; *past_alerts.entry(format!("ipc {}", o.name)).or_default() += schemas::ipc::encode(&o.batch).unwrap().len() as u64; if o.kind == OutputKind::Alerts { count(&o.batch, &mut past_alerts); } }
    }
    eprintln!("pass 2 {:?} past alerts {past_alerts:?}", t.elapsed());
    let t = Instant::now();
    let live: Vec<LiveEvent> = story.live(NOW, 400.0).take_while(|e| e.due_us < 70_000_000).collect();
    let (mut risk, mut sizes, mut slowest) = (0, 0, std::time::Duration::ZERO);
    for chunk in live.chunks(8) {
        let evs: Vec<DemoEvent> = chunk.iter().map(|e| e.event.clone()).collect();
        let e0 = Instant::now();
        let out = run.epoch(&evs, evs.last().unwrap().event_time_us / 1000);
        slowest = slowest.max(e0.elapsed());
        for o in out.outputs {
            sizes += o.batch.get_array_memory_size();
            if o.name == "churn_risk" { risk += o.batch.num_rows(); }
            if o.kind == OutputKind::Alerts {
                let j = o.batch.column_by_name("event").unwrap().as_any().downcast_ref::<StringArray>().unwrap().clone();
                for i in 0..j.len() { let v: serde_json::Value = serde_json::from_str(j.value(i)).unwrap();
                    eprintln!("{:6.2}s {} {} {} score {} | {}", chunk.last().unwrap().due_us as f64 / 1e6, v["action"], v["rule"], v["entity"]["id"], v["score"], v["summary"]); }
            }
        }
    }
    eprintln!("live {} events {:?}, churn_risk rows {risk}, output bytes {sizes}, slowest epoch {slowest:?}", live.len(), t.elapsed());
}

fn count(b: &RecordBatch, into: &mut BTreeMap<String, u64>) {
    let s = |n: &str| b.column_by_name(n).unwrap().as_any().downcast_ref::<StringArray>().unwrap().clone();
    let (rule, action) = (s("rule"), s("action"));
    for i in 0..b.num_rows() { *into.entry(format!("{} {}", rule.value(i), action.value(i))).or_default() += 1; }
}

#[test]
fn names() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/operator.sql")).unwrap();
    let job = plan_job("operator", &text, &FunctionContext::default()).unwrap();
    for v in &job.views {
        if let stream_jobs::plan::Body::Aggregate(a) = &v.body {
            eprintln!("{} view {:?} agg {:?} post {}", v.name, v.schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), a.schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), a.post.len());
        }
    }
}
