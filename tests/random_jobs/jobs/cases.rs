//! A job as the files of a case: `job.sql`, the rows of its sources, and what must come out.

use super::job::*;
use serde_json::{Value, json};

impl Job {
    /// File names and contents; what is expected is for one partition.
    pub fn to_case_files(&self) -> Vec<(String, String)> {
        let expected = self.expected(&|_| 0);
        let standing = matches!(expected.compare, Compare::Standing { .. });
        let mut counts = Vec::new();
        counts.extend(expected.late.filter(|n| *n > 0).map(|n| format!("late={n}")));
        counts.extend((expected.duplicate > 0).then(|| format!("duplicate={}", expected.duplicate)));
        let mut head = format!("-- output: {}\n-- now: 2024-06-01T00:00:00Z\n-- compare: {}\n", expected.view, if standing { "final" } else { "rows" });
        if !counts.is_empty() {
            head += &format!("-- counts: {}\n", counts.join(" "));
        }
        let mut files = vec![("job.sql".to_owned(), head + &self.sql())];
        files.extend(self.streams().into_iter().map(|s| (format!("{}.jsonl", s.source), s.records.iter().map(line).collect())));
        let row = |fields: &std::collections::BTreeMap<String, Value>| {
            let mut row: serde_json::Map<String, Value> = fields.clone().into_iter().collect();
            if standing {
                row.insert("_op".to_owned(), json!("+I"));
            }
            format!("{}\n", Value::Object(row))
        };
        files.push(("expected.jsonl".to_owned(), expected.rows.iter().map(row).collect()));
        files
    }
}

/// A record a line, as a case and `headend try` read it.
fn line(record: &Record) -> String {
    match (&record.key, &record.value) {
        (_, Some(value)) => format!("{value}\n"),
        (key, None) => format!("{}\n", json!({ "_key": key, "_value": null })),
    }
}
