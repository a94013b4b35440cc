//! Compiled expressions over batches: what comes out.

use crate::{
    plan::{Body, Step},
    sql::{FunctionContext, Mapping, plan_job},
    steps::{filter_mask, project},
};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, cast::AsArray, types::*};
use arrow_schema::{DataType, Field, Schema};
use std::sync::{Arc, atomic::Ordering};

fn text_batch(columns: &[(&str, &[Option<&str>])]) -> RecordBatch {
    let fields: Vec<Field> = columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, true)).collect();
    let arrays = columns.iter().map(|(_, values)| Arc::new(StringArray::from(values.to_vec())) as ArrayRef).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn strings(array: &ArrayRef) -> Vec<Option<&str>> {
    array.as_string::<i32>().iter().collect()
}

#[test]
fn a_mapping_gives_rows_and_where_they_come_from() {
    let batch = text_batch(&[
        ("InvoiceNo", &[Some("1"), Some("C2"), Some("3"), None]),
        ("Price", &[Some("2.50"), Some("1"), Some("7"), Some("1")]),
        ("At", &[Some("2010-12-01 08:26:00"), Some("2010-12-01 08:27:00"), Some("2010-12-01 08:28:00.5"), None]),
    ]);
    let sql = "SELECT 'uk' AS tenant, \"InvoiceNo\" AS invoice_id, CAST(CAST(\"Price\" AS DOUBLE) * 100 AS BIGINT) AS amount_minor,
                 to_timestamp(\"At\") AS event_time FROM input WHERE \"InvoiceNo\" NOT LIKE 'C%';";
    let mapping = Mapping::new(sql, batch.schema()).unwrap();
    let (mapped, origin) = mapping.apply(&batch).unwrap();
    assert_eq!(origin, [0, 2]);
    assert_eq!(mapped.schema(), *mapping.schema());
    assert_eq!(strings(mapped.column(1)), [Some("1"), Some("3")]);
    assert_eq!(mapped.column(2).as_primitive::<Int64Type>().values(), &[250, 700]);
    assert_eq!(mapped.column(3).as_primitive::<TimestampMicrosecondType>().values(), &[1_291_191_960_000_000, 1_291_192_080_500_000]);
    assert_eq!(strings(mapped.column(0)), [Some("uk"), Some("uk")]);
}

#[test]
fn a_mapping_refuses_what_is_not_one_row_by_itself() {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8, true)]));
    for (sql, place, message) in [
        ("SELECT a, COUNT(*) AS n FROM input GROUP BY a", (1, 36), "a mapping maps each row by itself"),
        ("SELECT\n b FROM input", (2, 2), "there is no column `b` in `input`"),
        ("SELECT a FROM inputs", (1, 15), "there is no relation `inputs`"),
        ("SELECT a FROM input; SELECT a FROM input", (1, 22), "a mapping is one `SELECT"),
        ("SELECT now() AS t FROM input", (1, 8), "`now()` cannot stand in a mapping"),
        ("SELECT prev(a) AS t FROM input", (1, 8), "`prev` looks at the rows before"),
        ("", (1, 1), "a mapping is one `SELECT"),
    ] {
        let error = Mapping::new(sql, schema.clone()).unwrap_err();
        assert_eq!(((error.line, error.column), error.message.starts_with(message)), (place, true), "{sql}: {error}");
    }
}

/// The result of `expr` over rows (tenant, t, a, b).
fn evaluate(expr: &str, context: &FunctionContext) -> ArrayRef {
    let text = format!(
        "CREATE SOURCE s (tenant TEXT, t TIMESTAMPTZ, a DOUBLE, b BIGINT, WATERMARK FOR t AS t) WITH (topic = 's', key = 'tenant');
         CREATE MATERIALIZED VIEW v AS SELECT {expr} AS x FROM s"
    );
    let job = plan_job("test", &text, context).unwrap_or_else(|e| panic!("{e}"));
    let schema = job.sources[0].schema.clone();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![Some("a"), Some("b"), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![1_000_000, 2_000_000, 3_000_000]).with_timezone("UTC")),
        Arc::new(Float64Array::from(vec![Some(52.52), Some(0.4), None])),
        Arc::new(Int64Array::from(vec![Some(7), None, Some(-1)])),
    ];
    let mut batch = RecordBatch::try_new(schema, columns).unwrap();
    let Body::Map { steps, .. } = &job.views[0].body else { panic!() };
    for step in steps {
        let Step::Project { exprs, schema } = step else { panic!("{step:?}") };
        batch = project(exprs, schema, &batch).unwrap();
    }
    assert_eq!(batch.schema(), job.views[0].schema);
    batch.column(0).clone()
}

#[test]
fn functions_give_what_they_promise() {
    let context = FunctionContext::default();
    let km = evaluate("haversine_km(a, 13.405, 48.8566, 2.3522)", &context);
    let km = km.as_primitive::<Float64Type>();
    assert!((km.value(0) - 877.46).abs() < 0.1 && km.is_null(2), "{km:?}");
    assert_eq!(km.value(0), (km.value(0) * 1e6).round() / 1e6);
    assert_eq!(strings(&evaluate("churn_band(a)", &context)), [Some("high"), Some("medium"), None]);
    let buckets = evaluate("hash_bucket(tenant, 10)", &context);
    assert!((0..10).contains(&buckets.as_primitive::<Int64Type>().value(0)) && buckets.is_null(2));
    assert_eq!(evaluate("churn_score(a, b)", &context).null_count(), 3);
    assert_eq!(evaluate("churn_reasons(a, b)", &context).null_count(), 3);
    assert_eq!(strings(&evaluate("'constant'", &context)), [Some("constant"); 3]);
}

#[test]
fn now_is_what_the_task_set() {
    let context = FunctionContext::default();
    context.now_us.store(5_000_000, Ordering::Relaxed);
    let age = evaluate("extract(epoch FROM now() - t)", &context);
    assert_eq!(age.as_primitive::<Float64Type>().values(), &[4.0, 3.0, 2.0]);
}

#[test]
fn a_long_expression_is_evaluated_and_dropped_on_a_small_stack() {
    let run = || evaluate(&vec!["b"; 295].join(" + "), &FunctionContext::default()).as_primitive::<Int64Type>().value(0);
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap();
    assert_eq!(thread.join().unwrap(), 295 * 7);
}

#[test]
fn a_row_for_which_an_expression_fails_is_null_and_its_neighbours_are_not() {
    let context = FunctionContext::default();
    let quotients = evaluate("100 / (b - 7)", &context);
    assert_eq!(quotients.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [None, None, Some(-12)]);
    let numbers = evaluate("CAST(CASE WHEN tenant = 'a' THEN '12a' ELSE '12' END AS BIGINT)", &context);
    assert_eq!(numbers.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [None, Some(12), Some(12)]);
    let times = evaluate("to_timestamp(COALESCE(tenant, '1970-01-01T00:00:01Z'))", &context);
    assert_eq!(times.as_primitive::<TimestampMicrosecondType>().iter().collect::<Vec<_>>(), [None, None, Some(1_000_000)]);
}

#[test]
fn a_row_that_a_mapping_cannot_map_is_an_error() {
    let batch = text_batch(&[("price", &[Some("2"), Some("two")])]);
    let mapping = Mapping::new("SELECT CAST(price AS DOUBLE) AS price FROM input", batch.schema()).unwrap();
    assert!(mapping.apply(&batch).unwrap_err().to_string().contains("two"));
    assert_eq!(mapping.apply(&batch.slice(0, 1)).unwrap().1, [0]);
}

#[test]
fn a_null_condition_is_false() {
    let schema = Arc::new(Schema::new(vec![Field::new("b", DataType::Boolean, true)]));
    let column: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]));
    let batch = RecordBatch::try_new(schema, vec![column]).unwrap();
    let expr = Arc::new(datafusion::physical_expr::expressions::Column::new("b", 0)) as crate::plan::Expr;
    let mask = filter_mask(&expr, &batch).unwrap();
    assert_eq!((mask.null_count(), mask.iter().flatten().collect::<Vec<_>>()), (0, vec![true, false, false]));
}

fn churn_model() -> models::ChurnModel {
    let features = vec!["a".to_owned(), "b".to_owned()];
    let rows: Vec<Vec<Option<f64>>> = (0..200).map(|i| vec![Some(f64::from(i % 40)), Some(f64::from(i % 7))]).collect();
    let labels: Vec<bool> = (0..200).map(|i| i % 40 > 25).collect();
    models::train(&features, &rows, &labels, models::TrainOptions::default()).unwrap()
}

#[test]
fn the_churn_model_scores_and_explains() {
    let model = Arc::new(churn_model());
    let context = FunctionContext { models: [("churn".to_string(), model.clone())].into(), ..Default::default() };
    let scores = evaluate("churn_score(a, b)", &context);
    let expected = [model.score(&[Some(52.52), Some(7.0)]), model.score(&[Some(0.4), None]), model.score(&[None, Some(-1.0)])];
    assert_eq!(scores.as_primitive::<Float64Type>().values(), &expected);
    let reasons = evaluate("churn_reasons(a, b)", &context);
    let first: serde_json::Value = serde_json::from_str(reasons.as_string::<i32>().value(0)).unwrap();
    assert_eq!((first[0]["feature"].as_str(), first[0]["value"].as_f64(), first.as_array().unwrap().len()), (Some("a"), Some(52.52), 2));
    let contribution = |i: usize| first[i]["contribution"].as_f64().unwrap().abs();
    assert!(contribution(0) >= contribution(1));
}

#[test]
fn features_of_the_churn_model_are_checked_when_planned() {
    let context = FunctionContext { models: [("churn".to_string(), Arc::new(churn_model()))].into(), ..Default::default() };
    let error = |expr: &str| {
        let text = format!(
            "CREATE SOURCE s (tenant TEXT, t TIMESTAMPTZ, a DOUBLE, b BIGINT, WATERMARK FOR t AS t) WITH (topic = 's', key = 'tenant');
CREATE MATERIALIZED VIEW v AS SELECT {expr} AS x FROM s"
        );
        plan_job("test", &text, &context).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(error("churn_score(a, b + 1)"), Ok(()));
    assert_eq!(error("churn_score(a)").unwrap_err(), "line 2, column 38: `churn_score` takes the 2 features of the model, got 1; they are `a`, `b`");
    assert_eq!(error("churn_reasons(b, a)").unwrap_err(), "line 2, column 38: `churn_reasons` expects the feature `a` where `b` stands; in order: `a`, `b`");
}
