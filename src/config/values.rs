//! The text of every setting, with the place where it was given.

use super::{
    ConfigError,
    settings::{self, SETTINGS},
    units,
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Where a value comes from, as an error message names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File {
        path: PathBuf,
        line: usize,
    },
    Environment(String),
    /// A default, or a value that the program itself gave.
    Built,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Built => f.write_str("configuration"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Address,
}

#[derive(Debug)]
struct Given {
    text: String,
    place: Place,
}

/// What was given, by `section.key`.
#[derive(Debug)]
pub(super) struct Values {
    given: BTreeMap<String, Given>,
    /// Where a missing setting is missing.
    origin: Place,
    /// Paths from the file are relative to this folder.
    base: PathBuf,
}

impl Values {
    pub(super) fn of_file(path: &Path, text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let line = |at: usize| Place::File { path: path.to_owned(), line: text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1 };
        let table = DeTable::parse(text)
            .map_err(|e| ConfigError::Toml { place: line(e.span().map_or(0, |s| s.start)), message: e.message().lines().collect::<Vec<_>>().join(", ") })?
            .into_inner();
        let mut given = BTreeMap::new();
        for (section, body) in &table {
            let place = line(section.span().start);
            let Some(keys) = body.get_ref().as_table().filter(|_| SETTINGS.iter().any(|s| s.section == section.get_ref().as_ref())) else {
                return Err(unknown(place, section.get_ref(), SETTINGS.iter().map(|s| s.section.to_owned())));
            };
            for (key, value) in keys {
                let name = format!("{}.{}", section.get_ref(), key.get_ref());
                let place = line(key.span().start);
                if settings::find(&name).is_none() {
                    return Err(unknown(place, &name, SETTINGS.iter().map(|s| format!("{}.{}", s.section, s.key))));
                }
                let text = plain(value).ok_or_else(|| ConfigError::Value {
                    place: place.clone(),
                    key: name.clone(),
                    value: value.get_ref().type_str().to_owned(),
                    expected: "a text, a number or a list of texts".to_owned(),
                })?;
                given.insert(name, Given { text, place });
            }
        }
        for s in SETTINGS {
            let name = format!("{}.{}", s.section, s.key);
            let variable = settings::env_name(&name);
            if let Some(text) = env(&variable) {
                given.insert(name, Given { text, place: Place::Environment(variable) });
            }
        }
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { given, origin: Place::File { path: path.to_owned(), line: 0 }, base })
    }

    pub(super) fn of_pairs(pairs: &[(&str, &str)]) -> Result<Self, ConfigError> {
        let mut given = BTreeMap::new();
        for (name, text) in pairs {
            if settings::find(name).is_none() {
                return Err(unknown(Place::Built, name, SETTINGS.iter().map(|s| format!("{}.{}", s.section, s.key))));
            }
            given.insert((*name).to_owned(), Given { text: (*text).to_owned(), place: Place::Built });
        }
        Ok(Self { given, origin: Place::Built, base: PathBuf::new() })
    }

    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(|g| g.text.as_str())
    }

    pub(super) fn place(&self, name: &str) -> Place {
        self.given.get(name).map_or_else(|| self.origin.clone(), |g| g.place.clone())
    }

    /// The text given, or the default.
    pub(super) fn text(&self, name: &'static str) -> Result<&str, ConfigError> {
        let setting = settings::find(name);
        self.given(name).or_else(|| setting.and_then(|s| s.default)).ok_or_else(|| ConfigError::Missing {
            place: self.origin.clone(),
            key: name,
            about: setting.map_or("", |s| s.about),
        })
    }

    /// The error that `name` has a value which does not do.
    pub(super) fn refused(&self, name: &'static str, expected: &str) -> ConfigError {
        let value = self.text(name).unwrap_or_default().to_owned();
        ConfigError::Value { place: self.place(name), key: name.to_owned(), value, expected: expected.to_owned() }
    }

    pub(super) fn number<T: TryFrom<u64>>(&self, name: &'static str, least: u64, most: u64) -> Result<T, ConfigError> {
        let number = self.text(name)?.parse::<u64>().ok().filter(|n| (least..=most).contains(n)).and_then(|n| T::try_from(n).ok());
        let bound = if most == u64::MAX { format!("of at least {least}") } else { format!("from {least} to {most}") };
        number.ok_or_else(|| self.refused(name, &format!("a whole number {bound}")))
    }

    pub(super) fn duration(&self, name: &'static str) -> Result<Duration, ConfigError> {
        let above_zero = units::duration(self.text(name)?).ok().filter(|d| !d.is_zero());
        above_zero.ok_or_else(|| self.refused(name, "a time such as `500ms`, `10s` or `5m`"))
    }

    pub(super) fn parsed<T: FromStr>(&self, name: &'static str, kind: Kind) -> Result<T, ConfigError> {
        let expected = match kind {
            Kind::Address => "an address such as `127.0.0.1:8080`",
        };
        self.text(name)?.parse().map_err(|_| self.refused(name, expected))
    }

    /// A list in one text, divided by commas: so the environment gives it.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.given(name).unwrap_or_default().split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
    }

    pub(super) fn path(&self, name: &'static str) -> Result<PathBuf, ConfigError> {
        let text = self.text(name)?;
        Ok(self.based(name, text))
    }

    pub(super) fn optional_path(&self, name: &str) -> Option<PathBuf> {
        self.given(name).map(|text| self.based(name, text))
    }

    /// A path of the environment is relative to the current folder, like any other that is typed there.
    fn based(&self, name: &str, text: &str) -> PathBuf {
        if matches!(self.place(name), Place::Environment(_)) { PathBuf::from(text) } else { self.base.join(text) }
    }
}

fn unknown(place: Place, key: &str, names: impl Iterator<Item = String>) -> ConfigError {
    let names: Vec<String> = names.collect();
    let nearest = settings::nearest(key, names.iter().map(String::as_str)).map(str::to_owned);
    ConfigError::UnknownKey { place, key: key.to_owned(), nearest }
}

fn plain(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(s) => Some(s.to_string()),
        DeValue::Integer(i) if i.radix() == 10 => Some(i.as_str().replace('_', "")),
        DeValue::Array(items) => items.iter().map(plain).collect::<Option<Vec<_>>>().map(|v| v.join(",")),
        _ => None,
    }
}
