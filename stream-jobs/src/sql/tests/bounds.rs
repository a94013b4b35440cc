//! Texts of any size and shape give an error or a plan, on a small stack.

use super::try_plan;
use crate::sql::{FunctionContext, plan_job};

/// As small as a thread of a server may be.
const STACK_BYTES: usize = 2 << 20;

fn on_small_stack(statement: String) -> Result<(), String> {
    let run = move || try_plan(&statement).map(|_| ()).map_err(|e| e.message);
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap().join().unwrap()
}

fn view(expr: &str) -> String {
    format!("CREATE MATERIALIZED VIEW v AS SELECT tenant, {expr} AS x FROM usage")
}

#[test]
fn an_expression_at_the_bound_plans_and_one_above_is_refused() {
    let sum = |terms: usize| view(&vec!["bytes_up"; terms].join(" + "));
    let or = |terms: usize| view(&vec!["true"; terms].join(" OR "));
    assert_eq!(on_small_stack(sum(295)), Ok(()));
    assert_eq!(on_small_stack(or(295)), Ok(()));
    for statement in [sum(305), or(305), sum(3_000)] {
        assert!(on_small_stack(statement).unwrap_err().starts_with("the expression is too long"));
    }
}

#[test]
fn long_and_deep_texts_are_refused_before_they_are_parsed() {
    let error = |text: String| plan_job("test", &text, &FunctionContext::default()).unwrap_err().message;
    assert!(error(view(&vec!["1"; 20_000].join("+"))).contains("words and signs"));
    assert!(error(view(&vec!["true"; 100_000].join(" OR "))).starts_with("the statement has"));
    assert!(error(view(&vec!["a"; 300_000].join(" OR "))).starts_with("the file has"));
    assert!(error("(".repeat(1 << 20)).starts_with("the statement has"));
    assert!(error(view(&format!("{}1{}", "(".repeat(500), ")".repeat(500)))).starts_with("nested too deeply"));
    assert!(error(view(&format!("{}1{}", "CASE WHEN true THEN ".repeat(500), " END".repeat(500)))).starts_with("nested too deeply"));
    assert!(error(view(&format!("{} true", "NOT ".repeat(5_000)))).starts_with("the expression is too long"));
    assert!(error(view(&format!("{} 1", "- ".repeat(5_000)))).starts_with("the expression is too long"));
    assert!(error(view(&format!("1{}", "::int".repeat(2_000)))).starts_with("the expression is too long"));
    assert!(error(format!("{} FROM {}", view("1"), vec!["usage"; 3_000].join(","))).starts_with("the expression is too long"));
    assert!(error(vec!["SELECT 1"; 1_000].join(" UNION ALL ")).contains("joins or unites"));
}

#[test]
fn nesting_at_the_bound_does_not_overflow_the_stack() {
    for (open, close) in [("(", ")"), ("abs(", ")"), ("CASE WHEN true THEN ", " END"), ("- (", ")"), ("NOT (", ")")] {
        for depth in [9, 20, 31, 33] {
            let inner = if open == "NOT (" { "true" } else { "bytes_up" };
            let planned = depth <= if open == "abs(" { 10 } else { 31 };
            assert_eq!(planned, on_small_stack(view(&format!("{}{inner}{}", open.repeat(depth), close.repeat(depth)))).is_ok(), "{depth} of {open}");
        }
    }
    let subqueries =
        |depth: usize| format!("CREATE MATERIALIZED VIEW v AS {}SELECT tenant FROM usage{}", "SELECT tenant FROM (".repeat(depth), ") x".repeat(depth));
    assert_eq!(on_small_stack(subqueries(31)), Ok(()));
    let chain = |word: &str, count: usize, end: &str| view(&format!("{}{end}", word.repeat(count)));
    assert_eq!(on_small_stack(chain("NOT ", 580, "true")), Ok(()));
    assert_eq!(on_small_stack(chain("- ", 580, "bytes_up")), Ok(()));
    assert!(on_small_stack(chain("INTERVAL ", 580, "'1 day'")).is_err());
}

#[test]
fn any_prefix_of_a_job_gives_an_answer() {
    for end in (0..super::BEFORE.len()).step_by(7) {
        let _ = plan_job("test", &super::BEFORE[..end], &FunctionContext::default());
    }
}
