//! The streaming statements, from tokens to what they say. Names are looked up later, in the order of the file.

use super::{
    error::{Result, SqlError, from_parser, list},
    interval::parse_duration_us,
    options::{Options, expect},
    tokens::{STATEMENT_BYTES_MAX, Tokens},
};
use crate::plan::Emit;
use arrow_schema::{DataType, Field, TimeUnit};
use datafusion::sql::sqlparser::{
    ast::{DataType as SqlType, ExactNumberInfo, Expr as SqlExpr, Query, TimezoneInfo},
    parser::Parser,
    tokenizer::{Location, Token},
};

#[derive(Debug)]
pub(super) enum Statement {
    Relation(RelationStatement),
    View(ViewStatement),
    Function(Box<FunctionStatement>),
    Sink(SinkStatement),
    Alert(Box<AlertStatement>),
}

/// A name where it was written.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub text: String,
    pub place: Location,
}

#[derive(Debug)]
pub(super) struct RelationStatement {
    pub name: Name,
    pub table: bool,
    pub columns: Vec<(Name, Field)>,
    pub watermark: Option<(Name, i64)>,
    pub options: Options,
}

#[derive(Debug)]
pub(super) struct ViewStatement {
    pub name: Name,
    pub query: Box<Query>,
    pub query_tokens: Tokens,
    /// Columns of `FOR SYSTEM_TIME AS OF`.
    pub as_of: Vec<Name>,
    /// What was written, with its place.
    pub emit: Option<(Emit, Location)>,
    pub options: Options,
}

#[derive(Debug)]
pub(super) struct FunctionStatement {
    pub name: String,
    pub parameters: Vec<(String, DataType)>,
    pub returns: DataType,
    pub body: (SqlExpr, Tokens),
    /// Where the text of the body stands in the file.
    pub body_place: Location,
}

#[derive(Debug)]
pub(super) struct SinkStatement {
    pub name: Name,
    pub view: Name,
    pub options: Options,
}

#[derive(Debug)]
pub(super) struct AlertStatement {
    pub name: Name,
    pub view: Name,
    pub raise: (SqlExpr, Tokens),
    pub clear: Option<(SqlExpr, Tokens)>,
    pub options: Options,
}

/// `TIMESTAMPTZ`: every time in a job.
pub(super) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(super) fn parse(tokens: &Tokens) -> Result<Statement> {
    let found = |index: usize| tokens.get(index).map_or("the end of the statement".to_string(), |t| format!("`{}`", t.token));
    let expected = |index: usize| {
        let statements = "`CREATE SOURCE`, `CREATE TABLE`, `CREATE FUNCTION`, `CREATE MATERIALIZED VIEW`, `CREATE SINK` or `CREATE ALERT`";
        SqlError::at(tokens.place(index), format!("expected {statements}, found {}", found(index)))
    };
    if !tokens.is_word_at(0, "create") {
        return Err(expected(0));
    }
    match tokens.get(1).map(|t| t.token.to_string().to_ascii_lowercase()).as_deref() {
        Some("source") => relation(tokens, false),
        Some("table") => relation(tokens, true),
        Some("function") => function(tokens),
        Some("sink") => sink(tokens),
        Some("alert") => alert(tokens),
        Some("materialized") if tokens.is_word_at(2, "view") => view(tokens),
        Some("view") => Err(SqlError::at(tokens.place(1), "a job keeps its views").hint("write `CREATE MATERIALIZED VIEW`")),
        _ => Err(expected(1)),
    }
}

/// `CREATE FUNCTION name(a TYPE, …) RETURNS TYPE [LANGUAGE SQL] [IMMUTABLE] AS 'expression'`, or `RETURN expression`.
fn function(tokens: &Tokens) -> Result<Statement> {
    let name = name_at(tokens, 2)?;
    expect(tokens, 3, &Token::LParen)?;
    let mut parameters: Vec<(String, DataType)> = Vec::new();
    let mut index = 4;
    while tokens.get(index).is_some_and(|t| t.token != Token::RParen) {
        let end = tokens
            .find_outside(index, |i| matches!(tokens.get(i).map(|t| &t.token), Some(Token::Comma | Token::RParen)))
            .ok_or_else(|| SqlError::at(tokens.place(3), "this parenthesis is not closed"))?;
        let part = tokens.part(index, end).ok_or_else(|| SqlError::at(tokens.place(index), "expected an argument and its type, found `,`"))?;
        let (parameter, field) = parse_column(&part)?;
        if parameters.iter().any(|(other, _)| *other == parameter.text) {
            return Err(SqlError::at(parameter.place, format!("two arguments are named `{}`", parameter.text)));
        }
        parameters.push((parameter.text, field.data_type().clone()));
        index = if tokens.get(end).is_some_and(|t| t.token == Token::Comma) { end + 1 } else { end };
    }
    index += 1;
    if !tokens.is_word_at(index, "returns") {
        let found = tokens.get(index).map_or("the end of the statement".to_string(), |t| format!("`{}`", t.token));
        let error = SqlError::at(tokens.place(index), format!("expected `RETURNS` and a type, found {found}"));
        return Err(error.hint("write `CREATE FUNCTION f(a DOUBLE) RETURNS DOUBLE AS '…'`"));
    }
    let ends = |i: usize| ["as", "return", "language", "immutable"].iter().any(|word| tokens.is_word_at(i, word));
    let mut end = tokens.find_outside(index + 1, ends).unwrap_or(tokens.len());
    let returns = tokens.part(index + 1, end).ok_or_else(|| SqlError::at(tokens.place(index), "expected a type after `RETURNS`"))?;
    let returns = parse_type(&returns)?;
    while tokens.is_word_at(end, "language") || tokens.is_word_at(end, "immutable") {
        end += if tokens.is_word_at(end, "language") { 2 } else { 1 };
    }
    let form = |place| SqlError::at(place, "expected `AS` and the expression in quotes, or `RETURN` and the expression");
    let body = if tokens.is_word_at(end, "return") {
        tokens.part(end + 1, tokens.len()).ok_or_else(|| form(tokens.place(end)))?
    } else {
        let text = match tokens.get(end + 1).map(|t| &t.token) {
            Some(Token::SingleQuotedString(text)) => text.clone(),
            Some(Token::DollarQuotedString(text)) => text.value.clone(),
            _ => return Err(form(tokens.place(end + 1))),
        };
        if !tokens.is_word_at(end, "as") || tokens.len() > end + 2 {
            return Err(form(tokens.place(if tokens.is_word_at(end, "as") { end + 2 } else { end })));
        }
        let inner = super::tokens::statements(&text).map_err(|error| SqlError::at(tokens.place(end + 1), error.message))?;
        match <[Tokens; 1]>::try_from(inner) {
            Ok([body]) => body,
            Err(_) => return Err(SqlError::at(tokens.place(end + 1), "the body of a function is one expression")),
        }
    };
    let body_place = tokens.place(end + 1);
    let without_select = if body.is_word_at(0, "select") { body.part(1, body.len()).ok_or_else(|| form(body_place))? } else { body };
    let expr = parse_whole(&without_select, |parser| parser.parse_expr())
        .map_err(|error| if tokens.is_word_at(end, "return") { error } else { SqlError::at(body_place, error.message) })?;
    Ok(Statement::Function(Box::new(FunctionStatement { name: name.text, parameters, returns, body: (expr, without_select), body_place })))
}

/// The query of a mapping: the whole statement.
pub(super) fn query(tokens: &Tokens) -> Result<Box<Query>> {
    parse_whole(tokens, |parser| parser.parse_query())
}

fn relation(tokens: &Tokens, table: bool) -> Result<Statement> {
    let name = name_at(tokens, 2)?;
    expect(tokens, 3, &Token::LParen)?;
    let mut columns: Vec<(Name, Field)> = Vec::new();
    let mut watermark = None;
    let mut index = 4;
    loop {
        let end = tokens
            .find_outside(index, |i| matches!(tokens.get(i).map(|t| &t.token), Some(Token::Comma | Token::RParen)))
            .ok_or_else(|| SqlError::at(tokens.place(3), "this parenthesis is not closed"))?;
        let part = tokens.part(index, end).ok_or_else(|| SqlError::at(tokens.place(index), "expected a column"))?;
        if part.are_words_at(0, &["watermark", "for"]) {
            if watermark.replace(parse_watermark(&part)?).is_some() {
                return Err(SqlError::at(part.start(), "`WATERMARK` is written twice"));
            }
        } else {
            let column = parse_column(&part)?;
            if columns.iter().any(|(other, _)| other.text == column.0.text) {
                return Err(SqlError::at(column.0.place, format!("column `{}` is written twice", column.0.text)));
            }
            columns.push(column);
        }
        index = end + 1;
        if tokens.get(end).is_some_and(|t| t.token == Token::RParen) {
            break;
        }
    }
    let options = options_at_end(tokens, index)?;
    Ok(Statement::Relation(RelationStatement { name, table, columns, watermark, options }))
}

fn parse_column(part: &Tokens) -> Result<(Name, Field)> {
    let name = name_at(part, 0)?;
    if name.text.starts_with('_') {
        return Err(SqlError::at(name.place, format!("column `{}` begins with `_`: such names are Headend's own", name.text)));
    }
    let type_tokens = part.part(1, part.len()).ok_or_else(|| SqlError::at(name.place, format!("column `{}` has no type", name.text)))?;
    let data_type = parse_type(&type_tokens)?;
    let field = Field::new(&name.text, data_type, true);
    Ok((name, field))
}

fn parse_type(tokens: &Tokens) -> Result<DataType> {
    let sql_type = parse_whole(tokens, |parser| parser.parse_data_type())?;
    column_type(&sql_type).ok_or_else(|| {
        let types = ["TEXT", "BIGINT", "INT", "SMALLINT", "DOUBLE", "REAL", "BOOLEAN", "TIMESTAMPTZ", "DATE", "DECIMAL(p, s)", "JSON"];
        SqlError::at(tokens.start(), format!("there is no type `{}` here; types are {}", tokens.text, list(&types)))
    })
}

fn column_type(sql_type: &SqlType) -> Option<DataType> {
    Some(match sql_type {
        SqlType::Text | SqlType::JSON | SqlType::JSONB | SqlType::Varchar(_) | SqlType::String(_) => DataType::Utf8,
        SqlType::BigInt(_) | SqlType::Int8(_) => DataType::Int64,
        SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) => DataType::Int32,
        SqlType::SmallInt(_) | SqlType::Int2(_) => DataType::Int16,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 => DataType::Float64,
        SqlType::Real | SqlType::Float4 => DataType::Float32,
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::Timestamp(_, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => timestamp(),
        SqlType::Date => DataType::Date32,
        SqlType::Decimal(info) | SqlType::Numeric(info) => decimal_type(info)?,
        _ => return None,
    })
}

fn decimal_type(info: &ExactNumberInfo) -> Option<DataType> {
    let (precision, scale) = match info {
        ExactNumberInfo::PrecisionAndScale(p, s) => (*p, *s),
        ExactNumberInfo::Precision(p) => (*p, 0),
        ExactNumberInfo::None => return None,
    };
    let fits = (1..=38).contains(&precision) && (0..=precision as i64).contains(&scale);
    fits.then_some(DataType::Decimal128(precision as u8, scale as i8))
}

/// `WATERMARK FOR t AS t - INTERVAL '5 seconds'`, or `AS t` for a bound of zero.
fn parse_watermark(part: &Tokens) -> Result<(Name, i64)> {
    let column = name_at(part, 2)?;
    let form = || SqlError::at(part.start(), "expected `WATERMARK FOR t AS t - INTERVAL '5 seconds'`");
    if !part.is_word_at(3, "as") || name_at(part, 4)?.text != column.text {
        return Err(form());
    }
    if part.len() == 5 {
        return Ok((column, 0));
    }
    if part.get(5).is_none_or(|t| t.token != Token::Minus) {
        return Err(form());
    }
    let (bound_us, end) = interval_at(part, 6)?;
    if end == part.len() { Ok((column, bound_us)) } else { Err(form()) }
}

/// `INTERVAL '5 seconds'` or `INTERVAL '5' SECOND` from `index` on: microseconds, and the index after it.
fn interval_at(tokens: &Tokens, index: usize) -> Result<(i64, usize)> {
    let wrong = || SqlError::at(tokens.place(index), "expected an interval").hint("for example `INTERVAL '5 seconds'`");
    let Some(Token::SingleQuotedString(value)) = tokens.get(index + 1).map(|t| &t.token) else { return Err(wrong()) };
    if !tokens.is_word_at(index, "interval") {
        return Err(wrong());
    }
    if let Some(us) = parse_duration_us(value) {
        return Ok((us, index + 2));
    }
    let unit = tokens.get(index + 2).map(|t| t.token.to_string()).unwrap_or_default();
    let us = parse_duration_us(&format!("{value} {unit}")).ok_or_else(wrong)?;
    Ok((us, index + 3))
}

fn view(tokens: &Tokens) -> Result<Statement> {
    let name = name_at(tokens, 3)?;
    let (mut options, start) = if tokens.is_word_at(4, "with") { Options::parse(tokens, 5)? } else { (Options::none(tokens), 4) };
    if !tokens.is_word_at(start, "as") {
        return Err(SqlError::at(tokens.place(start), "expected `AS` and a query"));
    }
    let ends = |i: usize| is_with(tokens, i) || tokens.is_word_at(i, "emit") && (tokens.is_word_at(i + 1, "on") || tokens.is_word_at(i + 1, "changes"));
    let end = tokens.find_outside(start + 1, ends).unwrap_or(tokens.len());
    let query_tokens = tokens.part(start + 1, end).ok_or_else(|| SqlError::at(tokens.place(start), "expected a query after `AS`"))?;
    let mut emit = None;
    let mut index = end;
    while index < tokens.len() {
        if is_with(tokens, index) {
            let (more, after) = Options::parse(tokens, index + 1)?;
            options.merge(more)?;
            index = after;
        } else if tokens.is_word_at(index, "emit") && emit.is_none() {
            let (written, after) = emit_at(tokens, index)?;
            emit = Some((written, tokens.place(index)));
            index = after;
        } else {
            return Err(SqlError::at(tokens.place(index), "expected the end of the statement").hint("statements end with `;`"));
        }
    }
    let (query_tokens, as_of) = without_as_of(query_tokens)?;
    let query = query(&query_tokens)?;
    Ok(Statement::View(ViewStatement { name, query, query_tokens, as_of, emit, options }))
}

/// Takes `FOR SYSTEM_TIME AS OF s.time` out, which the parser of the dialect does not know.
fn without_as_of(tokens: Tokens) -> Result<(Tokens, Vec<Name>)> {
    let mut as_of = Vec::new();
    let mut taken = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        if !tokens.are_words_at(index, &["for", "system_time", "as", "of"]) {
            index += 1;
            continue;
        }
        let mut end = index + 4;
        let mut name = name_at(&tokens, end)?;
        end += 1;
        while tokens.get(end).is_some_and(|t| t.token == Token::Period) {
            name = name_at(&tokens, end + 1)?;
            end += 2;
        }
        taken.push(index..end);
        as_of.push(name);
        index = end;
    }
    Ok((tokens.without(&taken), as_of))
}

fn is_with(tokens: &Tokens, index: usize) -> bool {
    tokens.is_word_at(index, "with") && tokens.get(index + 1).is_some_and(|t| t.token == Token::LParen)
}

fn emit_at(tokens: &Tokens, index: usize) -> Result<(Emit, usize)> {
    if tokens.are_words_at(index, &["emit", "on", "window", "close"]) {
        return Ok((Emit::OnWindowClose, index + 4));
    }
    if !tokens.is_word_at(index + 1, "changes") {
        return Err(SqlError::at(tokens.place(index), "expected `EMIT ON WINDOW CLOSE` or `EMIT CHANGES [EVERY INTERVAL '…']`"));
    }
    if !tokens.is_word_at(index + 2, "every") {
        return Ok((Emit::Changes, index + 2));
    }
    let (interval_us, after) = interval_at(tokens, index + 3)?;
    if interval_us < 1_000 {
        return Err(SqlError::at(tokens.place(index + 3), "`EVERY` is at least one millisecond"));
    }
    Ok((Emit::ChangesEvery { interval_us }, after))
}

fn sink(tokens: &Tokens) -> Result<Statement> {
    let name = name_at(tokens, 2)?;
    if !tokens.is_word_at(3, "from") {
        return Err(SqlError::at(tokens.place(3), "expected `FROM` and the name of a view"));
    }
    let view = name_at(tokens, 4)?;
    let options = options_at_end(tokens, 5)?;
    Ok(Statement::Sink(SinkStatement { name, view, options }))
}

fn alert(tokens: &Tokens) -> Result<Statement> {
    let name = name_at(tokens, 2)?;
    if !tokens.is_word_at(3, "on") {
        return Err(SqlError::at(tokens.place(3), "expected `ON` and the name of a view"));
    }
    let view = name_at(tokens, 4)?;
    if !tokens.are_words_at(5, &["raise", "when"]) {
        return Err(SqlError::at(tokens.place(5), "expected `RAISE WHEN` and a condition"));
    }
    let with = tokens.find_outside(7, |i| is_with(tokens, i)).unwrap_or(tokens.len());
    let clear = tokens.find_outside(7, |i| tokens.are_words_at(i, &["clear", "when"]) && i < with);
    let raise = condition(tokens, 7, clear.unwrap_or(with))?;
    let clear = clear.map(|from| condition(tokens, from + 2, with)).transpose()?;
    let options = options_at_end(tokens, with)?;
    Ok(Statement::Alert(Box::new(AlertStatement { name, view, raise, clear, options })))
}

fn condition(tokens: &Tokens, from: usize, to: usize) -> Result<(SqlExpr, Tokens)> {
    let part = tokens.part(from, to).ok_or_else(|| SqlError::at(tokens.place(from), "expected a condition"))?;
    let expr = parse_whole(&part, |parser| parser.parse_expr())?;
    Ok((expr, part))
}

fn options_at_end(tokens: &Tokens, index: usize) -> Result<Options> {
    if index == tokens.len() {
        return Ok(Options::none(tokens));
    }
    if !tokens.is_word_at(index, "with") {
        return Err(SqlError::at(tokens.place(index), "expected `WITH (…)` or the end of the statement").hint("statements end with `;`"));
    }
    let (options, after) = Options::parse(tokens, index + 1)?;
    match tokens.get(after) {
        None => Ok(options),
        Some(token) => Err(SqlError::at(token.span.start, "expected the end of the statement").hint("statements end with `;`")),
    }
}

fn parse_whole<T>(
    tokens: &Tokens,
    parse: impl FnOnce(&mut Parser<'_>) -> std::result::Result<T, datafusion::sql::sqlparser::parser::ParserError>,
) -> Result<T> {
    debug_assert!(tokens.text.len() <= STATEMENT_BYTES_MAX);
    let mut parser = tokens.parser();
    let parsed = parse(&mut parser).map_err(|e| from_parser(e, tokens))?;
    let next = parser.peek_token();
    if next.token == Token::EOF {
        return Ok(parsed);
    }
    Err(SqlError::at(next.span.start, format!("unexpected `{}`", next.token)))
}

/// The identifier at `index`: unquoted ones in lower case, as Postgres does.
fn name_at(tokens: &Tokens, index: usize) -> Result<Name> {
    let place = tokens.place(index);
    match tokens.get(index).map(|t| &t.token) {
        Some(Token::Word(word)) => {
            let text = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_ascii_lowercase() };
            Ok(Name { text, place })
        }
        Some(other) => Err(SqlError::at(place, format!("expected a name, found `{other}`"))),
        None => Err(SqlError::at(place, "expected a name, found the end of the statement")),
    }
}
