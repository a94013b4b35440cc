//! What a user is told about a file that does not plan: line, column and a sentence.

use super::tokens::Tokens;
use datafusion::{
    common::{Column, DataFusionError, Diagnostic, SchemaError},
    sql::sqlparser::{parser::ParserError, tokenizer::Location},
};
use std::fmt;

/// Why a job or a mapping was refused, and where. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    pub line: u64,
    pub column: u64,
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

pub(super) type Result<T> = std::result::Result<T, SqlError>;

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for SqlError {}

impl SqlError {
    pub(super) fn at(place: Location, message: impl Into<String>) -> Self {
        Self { line: place.line, column: place.column, message: message.into(), hint: None }
    }

    /// An error whose place the caller knows: see [`SqlError::placed`].
    pub(super) fn unplaced(message: impl Into<String>) -> Self {
        Self::at(Location::empty(), message)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn hint_opt(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    pub(super) fn placed(mut self, place: Location) -> Self {
        if self.line == 0 {
            (self.line, self.column) = (place.line, place.column);
        }
        self
    }
}

/// To travel through DataFusion's planner and come out of [`from_datafusion`] as it went in.
impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> Self {
        Self::External(Box::new(error))
    }
}

/// The parser says where in the text of its message: ` at Line: 4, Column: 12`.
pub(super) fn from_parser(error: ParserError, tokens: &Tokens) -> SqlError {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => return SqlError::at(tokens.start(), "the statement is nested too deeply"),
    };
    let Some((message, place)) = text.rsplit_once(" at Line: ") else {
        return SqlError::at(tokens.end(), lowercase_first(&text));
    };
    let place = place.split_once(", Column: ").and_then(|(l, c)| Some(Location::new(l.parse().ok()?, c.parse().ok()?)));
    SqlError::at(place.unwrap_or_else(|| tokens.start()), lowercase_first(message))
}

/// DataFusion's error in our words, with its own position or that of the word it speaks of.
pub(super) fn from_datafusion(error: DataFusionError, tokens: &Tokens) -> SqlError {
    let (root, span) = unwrap_error(error, None);
    let error = match root {
        DataFusionError::External(inner) => match inner.downcast::<SqlError>() {
            Ok(own) => *own,
            Err(other) => SqlError::unplaced(other.to_string()),
        },
        DataFusionError::SchemaError(inner, _) => schema_error(*inner),
        DataFusionError::SQL(inner, _) => from_parser(*inner, tokens),
        other => plain_error(&other.to_string()),
    };
    match span {
        Some(place) => error.placed(place),
        None => place(error, tokens),
    }
}

/// Gives an error without a place that of the first word which its message quotes, or the start of the statement.
pub(super) fn place(error: SqlError, tokens: &Tokens) -> SqlError {
    let found = quoted_words(&error.message).find_map(|quoted| {
        let word = quoted.split([' ', '(']).next()?;
        tokens.find_call(word).or_else(|| tokens.find_word(word))
    });
    error.placed(found.unwrap_or_else(|| tokens.start()))
}

fn unwrap_error(error: DataFusionError, span: Option<Location>) -> (DataFusionError, Option<Location>) {
    match error {
        DataFusionError::Context(_, inner) => unwrap_error(*inner, span),
        DataFusionError::Diagnostic(diagnostic, inner) => unwrap_error(*inner, place_of(&diagnostic).or(span)),
        DataFusionError::Collection(mut errors) if !errors.is_empty() => unwrap_error(errors.swap_remove(0), span),
        other => (other, span),
    }
}

fn place_of(diagnostic: &Diagnostic) -> Option<Location> {
    diagnostic.span.map(|span| Location::new(span.start.line, span.start.column))
}

fn schema_error(error: SchemaError) -> SqlError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => missing_column(&field, &valid_fields),
        SchemaError::AmbiguousReference { field } => {
            SqlError::unplaced(format!("column `{}` stands in more than one relation", field.name)).hint(format!("write `relation.{}`", field.name))
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            SqlError::unplaced(format!("there are two columns `{name}`")).hint("give one of them another name with `AS`")
        }
    }
}

fn missing_column(field: &Column, valid: &[Column]) -> SqlError {
    let mut relations: Vec<&str> = valid.iter().filter_map(|c| Some(c.relation.as_ref()?.table())).collect();
    relations.dedup();
    if let Some(relation) = &field.relation
        && !relations.contains(&relation.table())
    {
        let message = format!("there is no relation `{}` in this query; relations are {}", relation.table(), list(&relations));
        return SqlError::unplaced(message).hint_opt(nearest(relation.table(), relations.iter().copied()));
    }
    let of_relation = |c: &&Column| field.relation.as_ref().is_none_or(|r| c.relation.as_ref() == Some(r));
    let mut names: Vec<&str> = valid.iter().filter(of_relation).map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let place = match (&field.relation, relations.as_slice()) {
        (Some(relation), _) => format!(" in `{}`", relation.table()),
        (None, []) => String::new(),
        (None, relations) => format!(" in {}", list(relations)),
    };
    SqlError::unplaced(format!("there is no column `{}`{place}; columns are {}", field.name, list(&names))).hint_opt(nearest(&field.name, names))
}

pub(super) fn plain_error(text: &str) -> SqlError {
    let line = in_sql_types(text.lines().next().unwrap_or_default());
    let mut message = line.trim();
    // A function of ours says by itself what it does not take.
    if let Some((_, own)) = message.split_once("External error: line 0, column 0: ") {
        let own = own.split(". No function matches").next().unwrap_or(own);
        let (own, hint) = own.split_once("; ").map_or((own, None), |(own, hint)| (own, Some(hint.to_string())));
        return SqlError::unplaced(own).hint_opt(hint);
    }
    if let Some(error) = wrong_arguments(message) {
        return error;
    }
    for prefix in ["Error during planning: ", "This feature is not implemented: ", "Execution error: ", "Arrow error: ", "Internal error: ", "Error: "] {
        message = message.strip_prefix(prefix).unwrap_or(message);
    }
    SqlError::unplaced(lowercase_first(message.trim_end_matches('.')))
}

/// DataFusion's sentence about arguments of types that a function does not take.
fn wrong_arguments(message: &str) -> Option<SqlError> {
    let (_, rest) = message.split_once("ailed to coerce arguments to satisfy a call to '")?;
    let (name, rest) = rest.split_once('\'')?;
    let (_, rest) = rest.split_once("coercion from ")?;
    let (given, rest) = rest.split_once(" to the signature ")?;
    let (signature, _) = rest.split_once(" failed")?;
    let taken = signature.split_once('(').map_or(signature, |(_, types)| types.trim_end_matches(')'));
    Some(SqlError::unplaced(format!("`{name}` does not take ({given})")).hint(format!("it takes ({taken})")))
}

/// Arrow's names of types as SQL's.
fn in_sql_types(text: &str) -> String {
    const NAMES: [(&str, &str); 13] = [
        ("Timestamp(µs, \"UTC\")", "TIMESTAMPTZ"),
        ("Timestamp(ns)", "TIMESTAMP"),
        ("Timestamp(µs)", "TIMESTAMP"),
        ("Interval(MonthDayNano)", "INTERVAL"),
        ("Utf8View", "TEXT"),
        ("LargeUtf8", "TEXT"),
        ("Utf8", "TEXT"),
        ("Int64", "BIGINT"),
        ("Int32", "INT"),
        ("Int16", "SMALLINT"),
        ("Float64", "DOUBLE"),
        ("Float32", "REAL"),
        ("Decimal128", "DECIMAL"),
    ];
    let mut text = text.to_string();
    for (arrow, sql) in NAMES {
        // `UInt64` holds `Int64`, and a literal is written `Int64(5)`.
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find(arrow) {
            let (before, after) = (&rest[..at], &rest[at + arrow.len()..]);
            let inside = before.chars().next_back().is_some_and(char::is_alphanumeric);
            out.push_str(before);
            out.push_str(if inside { arrow } else { sql });
            rest = after;
        }
        out.push_str(rest);
        text = out;
    }
    text
}

fn lowercase_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), text.chars().nth(1)) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(chars).collect(),
        _ => text.to_string(),
    }
}

/// What a message quotes: in our own messages between backticks, in others between any marks.
fn quoted_words(message: &str) -> impl Iterator<Item = &str> {
    let marks: &[char] = if message.contains('`') { &['`'] } else { &['\'', '"'] };
    message.split(marks).skip(1).step_by(2)
}

/// `a`, `b`, `c`, and no more than twenty of them.
pub(super) fn list<S: AsRef<str>>(names: &[S]) -> String {
    const NAMES_MAX: usize = 20;
    let mut text = names.iter().take(NAMES_MAX).map(|n| format!("`{}`", n.as_ref())).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_MAX {
        text.push_str(&format!(" and {} more", names.len() - NAMES_MAX));
    }
    text
}

/// A hint with the known name that is nearest to a wrong one, when one is near.
pub(super) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let wrong = wrong.to_lowercase();
    let near_enough = (wrong.chars().count() / 3).max(1);
    let best = known.into_iter().map(|name| (edit_distance(&wrong, &name.to_lowercase()), name)).min()?;
    (best.0 <= near_enough).then(|| format!("did you mean `{}`?", best.1))
}

/// Levenshtein's distance, over names that the bounds keep short.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
