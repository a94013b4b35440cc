//! Job files that are wrong, each with the message that its author gets: line and column, what was found, what was expected, and what
//! would work.
//!
//! A file of `wrong_sql` opens with `-- expect: LINE:COLUMN: MESSAGE` and, where there is one, `-- hint: HINT`.

use std::path::Path;
use stream_jobs::sql::{FunctionContext, plan_job};

/// Fewer would say that files were lost.
const FILES_MIN: usize = 40;

#[test]
fn a_wrong_file_is_answered_with_place_cause_and_remedy() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong_sql");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= FILES_MIN, "{} files", files.len());
    let mut wrong = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let line = |marker: &str| text.lines().take(2).find_map(|line| line.strip_prefix(marker)).map(str::to_owned);
        let expected = (line("-- expect: ").unwrap_or_else(|| panic!("`{}` expects nothing", file.display())), line("-- hint: "));
        let told = match plan_job("wrong", &text, &FunctionContext::default()) {
            Ok(_) => ("it plans".to_owned(), None),
            Err(error) => (format!("{}:{}: {}", error.line, error.column, error.message), error.hint),
        };
        if told != expected {
            wrong.push(format!("{}\n  told     {told:?}\n  expected {expected:?}", file.file_name().unwrap().display()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} files:\n{}", wrong.len(), files.len(), wrong.join("\n"));
}
