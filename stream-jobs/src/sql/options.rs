//! `WITH (name = 'value', …)`: every option is known, is written once, and has a value of its kind.

use super::{
    error::{Result, SqlError, list, nearest},
    interval::parse_duration_us,
    tokens::Tokens,
};
use datafusion::sql::sqlparser::tokenizer::{Location, Token};
use std::collections::BTreeMap;

/// The options of one statement; what is taken is removed, so that the rest is what nobody knows.
#[derive(Debug)]
pub(super) struct Options {
    statement: Location,
    values: BTreeMap<String, (String, Location)>,
}

impl Options {
    pub fn none(tokens: &Tokens) -> Self {
        Self { statement: tokens.start(), values: BTreeMap::new() }
    }

    /// Reads `(name = value, …)` from `index` on; returns the index after the closing parenthesis.
    pub fn parse(tokens: &Tokens, mut index: usize) -> Result<(Self, usize)> {
        let mut options = Self::none(tokens);
        expect(tokens, index, &Token::LParen)?;
        loop {
            index += 1;
            let (name, place) = name_at(tokens, index)?;
            expect(tokens, index + 1, &Token::Eq)?;
            let value = value_at(tokens, index + 2)?;
            if options.values.insert(name.clone(), (value, place)).is_some() {
                return Err(SqlError::at(place, format!("option `{name}` is written twice")));
            }
            index += 3;
            match tokens.get(index).map(|t| &t.token) {
                Some(Token::Comma) => {}
                Some(Token::RParen) => return Ok((options, index + 1)),
                _ => return Err(SqlError::at(tokens.place(index), "expected `,` or `)` after an option")),
            }
        }
    }

    /// Adds the options of a second `WITH` of the statement.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        for (name, (value, place)) in other.values {
            if self.values.insert(name.clone(), (value, place)).is_some() {
                return Err(SqlError::at(place, format!("option `{name}` is written twice")));
            }
        }
        Ok(())
    }

    pub fn take(&mut self, name: &str) -> Option<(String, Location)> {
        self.values.remove(name)
    }

    pub fn place(&self, name: &str) -> Option<Location> {
        self.values.get(name).map(|(_, place)| *place)
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        self.take(name).map(|(value, _)| value)
    }

    pub fn required(&mut self, name: &str, example: &str) -> Result<(String, Location)> {
        let place = self.statement;
        self.take(name).ok_or_else(|| SqlError::at(place, format!("option `{name}` is missing")).hint(format!("for example `{name} = {example}`")))
    }

    pub fn duration_us(&mut self, name: &str) -> Result<Option<i64>> {
        let Some((value, place)) = self.take(name) else { return Ok(None) };
        let us = parse_duration_us(&value)
            .ok_or_else(|| SqlError::at(place, format!("option `{name}` is `{value}`, expected a length of time")).hint("for example `'10m'`"))?;
        Ok(Some(us))
    }

    pub fn flag(&mut self, name: &str) -> Result<bool> {
        match self.take(name) {
            None => Ok(false),
            Some((value, place)) => match value.to_ascii_lowercase().as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(SqlError::at(place, format!("option `{name}` is `{value}`, expected `true` or `false`"))),
            },
        }
    }

    pub fn choice(&mut self, name: &str, choices: &[&str]) -> Result<Option<String>> {
        let Some((value, place)) = self.take(name) else { return Ok(None) };
        if choices.contains(&value.as_str()) {
            return Ok(Some(value));
        }
        let hint = nearest(&value, choices.iter().copied());
        Err(SqlError::at(place, format!("option `{name}` is `{value}`, expected one of {}", list(choices))).hint_opt(hint))
    }

    /// The rest as written, for whoever knows it.
    pub fn rest(self) -> BTreeMap<String, String> {
        self.values.into_iter().map(|(name, (value, _))| (name, value)).collect()
    }

    /// Refuses what nobody took. `known`: the names of the statement's options.
    pub fn finish(self, known: &[&str]) -> Result<()> {
        match self.values.into_iter().min_by_key(|(_, (_, place))| *place) {
            None => Ok(()),
            Some((name, (_, place))) => {
                let hint = nearest(&name, known.iter().copied());
                Err(SqlError::at(place, format!("there is no option `{name}` here; options are {}", list(known))).hint_opt(hint))
            }
        }
    }
}

fn name_at(tokens: &Tokens, index: usize) -> Result<(String, Location)> {
    match tokens.get(index).map(|t| &t.token) {
        Some(Token::Word(word)) => Ok((word.value.to_ascii_lowercase(), tokens.place(index))),
        _ => Err(SqlError::at(tokens.place(index), "expected the name of an option")),
    }
}

fn value_at(tokens: &Tokens, index: usize) -> Result<String> {
    match tokens.get(index).map(|t| &t.token) {
        Some(Token::SingleQuotedString(text)) => Ok(text.clone()),
        Some(Token::Number(text, _)) => Ok(text.clone()),
        Some(Token::Word(word)) if word.quote_style.is_none() => Ok(word.value.clone()),
        _ => Err(SqlError::at(tokens.place(index), "expected the value of an option").hint("write it as `'text'`, a number, `true` or `false`")),
    }
}

pub(super) fn expect(tokens: &Tokens, index: usize, expected: &Token) -> Result<()> {
    match tokens.get(index) {
        Some(found) if found.token == *expected => Ok(()),
        Some(found) => Err(SqlError::at(found.span.start, format!("expected `{expected}`, found `{}`", found.token))),
        None => Err(SqlError::at(tokens.end(), format!("expected `{expected}`, found the end of the statement"))),
    }
}
