//! Jobs that plan and jobs that do not, as data.

#![allow(clippy::unwrap_used)]

mod bounds;
mod evaluated;
mod planned;
mod refused;

use super::{FunctionContext, SqlError, plan_job};
use crate::plan::{Aggregate, Body, Job, Join, ViewSpec};

/// Sources and views that every case stands behind.
const BEFORE: &str = "
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id', dedup = '10m');
CREATE SOURCE network (tenant TEXT, node_id TEXT, event_time TIMESTAMPTZ, value DOUBLE, WATERMARK FOR event_time AS event_time)
  WITH (topic = 'network.v1', key = 'tenant, node_id');
CREATE TABLE subscriber (tenant TEXT, subscriber_id TEXT, plan_id TEXT, customer_since DATE, nps INT)
  WITH (topic = 'subscriber.v1', key = 'tenant, subscriber_id');
CREATE TABLE plans (tenant TEXT, plan_id TEXT, price DOUBLE) WITH (topic = 'plan.v1', key = 'tenant, plan_id', broadcast = true);
CREATE MATERIALIZED VIEW usage_1m AS
SELECT tenant, subscriber_id, window_start, window_end, SUM(bytes_down + bytes_up) AS bytes, COUNT(*) AS records
FROM TUMBLE(usage, event_time, INTERVAL '1 minute') GROUP BY tenant, subscriber_id, window_start, window_end EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW totals AS
SELECT tenant, subscriber_id, SUM(bytes_down) AS bytes, COUNT(*) AS records FROM usage GROUP BY tenant, subscriber_id;
";

fn try_plan(statement: &str) -> Result<Job, SqlError> {
    plan_job("test", &format!("{BEFORE}{statement}"), &FunctionContext::default())
}

fn plan(statement: &str) -> Job {
    try_plan(statement).unwrap_or_else(|e| panic!("{e}\n{statement}"))
}

fn last(job: &Job) -> &ViewSpec {
    job.views.last().unwrap()
}

fn aggregate_of(view: &ViewSpec) -> &Aggregate {
    match &view.body {
        Body::Aggregate(aggregate) => aggregate,
        other => panic!("{other:?} is no aggregate"),
    }
}

fn join_of(view: &ViewSpec) -> &Join {
    match &view.body {
        Body::Join(join) => join,
        other => panic!("{other:?} is no join"),
    }
}

fn names(view: &ViewSpec, columns: &[usize]) -> Vec<String> {
    columns.iter().map(|c| view.schema.field(*c).name().clone()).collect()
}

fn columns(view: &ViewSpec) -> String {
    view.schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect::<Vec<_>>().join(", ")
}
