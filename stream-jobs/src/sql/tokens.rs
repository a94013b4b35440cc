//! Tokens of a file, one statement at a time, and the bounds that keep any text from exhausting stack or memory.
//!
//! The bounds are checked on tokens, before anything is parsed: every level of a syntax tree costs at least one token of
//! the expression it stands in, so bounding the tokens bounds the depth of whatever is built and dropped later.

use super::error::{Result, SqlError};
use datafusion::sql::sqlparser::{
    dialect::PostgreSqlDialect,
    keywords::Keyword,
    parser::Parser,
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word},
};

pub(super) const FILE_BYTES_MAX: usize = 1 << 20;
pub(super) const STATEMENT_BYTES_MAX: usize = 64 << 10;
const STATEMENT_TOKENS_MAX: usize = 10_000;
/// Parentheses, brackets and `CASE` that are open at once.
const NESTING_MAX: usize = 32;
/// Calls of functions inside of one another: DataFusion types the arguments of each level twice.
const CALLS_MAX: usize = 10;
/// Tokens of one expression, those around it that are still open included.
const EXPRESSION_TOKENS_MAX: usize = 600;
/// Above anything that the bounds let through: at its own limit the parser tries other readings, each level twice.
const PARSER_DEPTH_MAX: usize = 4 * EXPRESSION_TOKENS_MAX;
/// `JOIN`, `UNION` and their like: each is a level of the plan.
const COMBINATIONS_MAX: usize = 32;

static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// The tokens of one statement without white space and comments; never empty.
#[derive(Debug, Clone)]
pub(super) struct Tokens {
    tokens: Vec<TokenWithSpan>,
    /// The statement as it stands in the file.
    pub text: String,
}

/// Splits a file at its semicolons. The positions of the tokens are those in the file.
pub(super) fn statements(file: &str) -> Result<Vec<Tokens>> {
    if file.len() > FILE_BYTES_MAX {
        return Err(SqlError::at(Location::new(1, 1), format!("the file has {} bytes, at most {FILE_BYTES_MAX} are read", file.len())));
    }
    let all =
        Tokenizer::new(&DIALECT, file).tokenize_with_location().map_err(|e| SqlError::at(e.location, e.message.replacen("Unterminated", "unterminated", 1)))?;
    let mut places = Places::new(file);
    let mut statements = Vec::new();
    let mut current = Vec::new();
    for token in all {
        match token.token {
            Token::SemiColon => finish(std::mem::take(&mut current), &mut places, &mut statements)?,
            Token::Whitespace(_) | Token::EOF => {}
            _ => current.push(token),
        }
    }
    finish(current, &mut places, &mut statements)?;
    Ok(statements)
}

fn finish(tokens: Vec<TokenWithSpan>, places: &mut Places<'_>, statements: &mut Vec<Tokens>) -> Result<()> {
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return Ok(()) };
    let start = places.byte_of(first.span.start);
    let text = places.file[start..places.byte_of(last.span.end)].to_string();
    check_bounds(&tokens, text.len())?;
    statements.push(Tokens { tokens, text });
    Ok(())
}

/// Turns positions into byte offsets; asked in rising order, it goes over the file once.
struct Places<'a> {
    file: &'a str,
    byte: usize,
    at: Location,
}

impl<'a> Places<'a> {
    fn new(file: &'a str) -> Self {
        Self { file, byte: 0, at: Location::new(1, 1) }
    }

    fn byte_of(&mut self, place: Location) -> usize {
        for c in self.file[self.byte..].chars() {
            if self.at >= place {
                break;
            }
            self.byte += c.len_utf8();
            self.at = if c == '\n' { Location::new(self.at.line + 1, 1) } else { Location::new(self.at.line, self.at.column + 1) };
        }
        self.byte
    }
}

fn check_bounds(tokens: &[TokenWithSpan], bytes: usize) -> Result<()> {
    let start = tokens[0].span.start;
    if bytes > STATEMENT_BYTES_MAX {
        return Err(SqlError::at(start, format!("the statement has {bytes} bytes, at most {STATEMENT_BYTES_MAX} are read")));
    }
    if tokens.len() > STATEMENT_TOKENS_MAX {
        return Err(SqlError::at(start, format!("the statement has {} words and signs, at most {STATEMENT_TOKENS_MAX} are read", tokens.len())));
    }
    let combines = |t: &&TokenWithSpan| matches!(keyword(&t.token), Keyword::JOIN | Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT);
    let combinations = tokens.iter().filter(combines).count();
    if combinations > COMBINATIONS_MAX {
        let message = format!("the statement joins or unites {combinations} times, at most {COMBINATIONS_MAX} times are allowed");
        return Err(SqlError::at(start, message));
    }
    check_depth(tokens)
}

/// An open parenthesis or the statement itself.
#[derive(Default)]
struct Level {
    /// Tokens since the expression at hand began.
    tokens: usize,
    /// In `FROM a, b` each comma is one join more.
    in_from: bool,
    /// The parenthesis of a call: a word stands before it that is no keyword of an expression or clause.
    call: bool,
}

/// Counts the tokens of every open expression: a comma or a word that begins another clause starts afresh.
fn check_depth(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut open = vec![Level::default()];
    let mut sum = 0usize;
    let mut before = &tokens[0];
    for token in tokens {
        let keyword = keyword(&token.token);
        let here = open.len() - 1;
        let step = match step_of(&token.token, keyword) {
            Step::Separate if token.token == Token::Comma && open[here].in_from => Step::Go,
            step => step,
        };
        if matches!(keyword, Keyword::SELECT | Keyword::FROM | Keyword::WHERE | Keyword::GROUP) {
            open[here].in_from = keyword == Keyword::FROM;
        }
        match step {
            Step::Separate => sum -= std::mem::take(&mut open[here].tokens),
            Step::Close if here > 0 => sum -= open.pop().map_or(0, |level| level.tokens),
            Step::Close | Step::Go | Step::Open => {
                open[here].tokens += 1;
                sum += 1;
            }
        }
        if step == Step::Open {
            open.push(Level { call: may_be_called(before), ..Level::default() });
        }
        if open.iter().filter(|level| level.call).count() > CALLS_MAX {
            let message = format!("nested too deeply: at most {CALLS_MAX} calls of functions are allowed inside of one another");
            return Err(SqlError::at(token.span.start, message).hint("compute parts of it in a subquery"));
        }
        before = token;
        if open.len() - 1 > NESTING_MAX {
            return Err(SqlError::at(token.span.start, format!("nested too deeply: at most {NESTING_MAX} levels of parentheses and `CASE` are allowed")));
        }
        if sum > EXPRESSION_TOKENS_MAX {
            let message = format!("the expression is too long: at most {EXPRESSION_TOKENS_MAX} words and signs are allowed in one");
            return Err(SqlError::at(token.span.start, message).hint("compute parts of it in a view of their own"));
        }
    }
    Ok(())
}

fn may_be_called(token: &TokenWithSpan) -> bool {
    const NEVER: [Keyword; 20] = [
        Keyword::AND,
        Keyword::OR,
        Keyword::NOT,
        Keyword::IN,
        Keyword::IS,
        Keyword::LIKE,
        Keyword::BETWEEN,
        Keyword::AS,
        Keyword::ON,
        Keyword::USING,
        Keyword::SELECT,
        Keyword::FROM,
        Keyword::JOIN,
        Keyword::WHERE,
        Keyword::BY,
        Keyword::HAVING,
        Keyword::WHEN,
        Keyword::THEN,
        Keyword::ELSE,
        Keyword::WITH,
    ];
    matches!(token.token, Token::Word(_)) && !NEVER.contains(&keyword(&token.token))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    Close,
    Separate,
    Go,
}

fn step_of(token: &Token, keyword: Keyword) -> Step {
    match token {
        Token::LParen | Token::LBracket | Token::LBrace => Step::Open,
        Token::RParen | Token::RBracket | Token::RBrace => Step::Close,
        Token::Comma => Step::Separate,
        _ => match keyword {
            Keyword::CASE => Step::Open,
            Keyword::END => Step::Close,
            Keyword::SELECT | Keyword::FROM | Keyword::WHERE | Keyword::HAVING => Step::Separate,
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE => Step::Separate,
            _ => Step::Go,
        },
    }
}

fn keyword(token: &Token) -> Keyword {
    match token {
        Token::Word(Word { keyword, quote_style: None, .. }) => *keyword,
        _ => Keyword::NoKeyword,
    }
}

/// True for the unquoted word `word`, in any case.
pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

impl Tokens {
    pub fn start(&self) -> Location {
        self.tokens.first().map_or_else(Location::empty, |t| t.span.start)
    }

    pub fn end(&self) -> Location {
        self.tokens.last().map_or_else(Location::empty, |t| t.span.start)
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn get(&self, index: usize) -> Option<&TokenWithSpan> {
        self.tokens.get(index)
    }

    /// Where the token at `index` stands; past the last one, the last one.
    pub fn place(&self, index: usize) -> Location {
        self.tokens.get(index).map_or_else(|| self.end(), |t| t.span.start)
    }

    pub fn is_word_at(&self, index: usize, word: &str) -> bool {
        self.tokens.get(index).is_some_and(|t| is_word(&t.token, word))
    }

    pub fn are_words_at(&self, index: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| self.is_word_at(index + i, word))
    }

    /// The first identifier or keyword `word`, in any case.
    pub fn find_word(&self, word: &str) -> Option<Location> {
        let same = |t: &&TokenWithSpan| matches!(&t.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word));
        self.tokens.iter().find(same).map(|t| t.span.start)
    }

    /// The first call of a function `word`.
    pub fn find_call(&self, word: &str) -> Option<Location> {
        let call = |i: &usize| self.is_word_at(*i, word) && self.tokens.get(i + 1).is_some_and(|t| t.token == Token::LParen);
        (0..self.tokens.len()).find(call).map(|i| self.place(i))
    }

    /// The first index from `from` on, outside of all parentheses, for which `found` holds.
    pub fn find_outside(&self, from: usize, found: impl Fn(usize) -> bool) -> Option<usize> {
        let mut depth = 0usize;
        for index in from..self.tokens.len() {
            if depth == 0 && found(index) {
                return Some(index);
            }
            match self.tokens[index].token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        None
    }

    /// The statement without the tokens in `taken`.
    pub fn without(mut self, taken: &[std::ops::Range<usize>]) -> Self {
        let mut index = 0;
        self.tokens.retain(|_| {
            index += 1;
            !taken.iter().any(|range| range.contains(&(index - 1)))
        });
        self
    }

    /// A part of the statement: `text` is the part's.
    pub fn part(&self, from: usize, to: usize) -> Option<Tokens> {
        let tokens = self.tokens.get(from..to).filter(|part| !part.is_empty())?.to_vec();
        let mut places = Places { file: &self.text, byte: 0, at: self.start() };
        let start = places.byte_of(tokens.first()?.span.start);
        let end = places.byte_of(tokens.last()?.span.end);
        Some(Tokens { text: self.text[start..end].to_string(), tokens })
    }

    pub fn parser(&self) -> Parser<'static> {
        Parser::new(&DIALECT).with_recursion_limit(PARSER_DEPTH_MAX).with_tokens_with_locations(self.tokens.clone())
    }
}
