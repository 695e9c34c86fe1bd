//! Reading TOML with positions: every getter records what is wrong, with line and dotted key, and goes on.
//!
//! The parser's sections call it; it knows types and units but no key of the spec. It must never stop
//! at the first error.

use std::cell::RefCell;
use std::fmt::Display;
use std::str::FromStr;

use toml::de::{DeTable, DeValue};

use super::SpecError;
use crate::spec::{Millis, parse_duration, parse_size};

/// How alike a wrong key must be to a right one to be suggested (Jaro-Winkler, 0 to 1): high enough
/// that `image` suggests nothing, low enough for two swapped or missing letters.
const ALIKE: f64 = 0.8;

/// The keys that a table may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys {
    /// What this version reads.
    pub(super) known: &'static [&'static str],
    /// What the spec has but this version does not build yet.
    pub(super) later: &'static [&'static str],
}

/// The errors found so far.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    text: &'t str,
    errors: RefCell<Vec<SpecError>>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, errors: RefCell::default() }
    }

    /// The line, from 1, of a byte offset.
    fn line(&self, offset: usize) -> usize {
        1 + self.text.get(..offset).unwrap_or_default().matches('\n').count()
    }

    /// Records an error at a byte offset.
    pub(super) fn at(&self, offset: usize, key: &str, what: impl Into<String>, hint: Option<String>) {
        let error = SpecError { line: self.line(offset), key: key.to_owned(), what: what.into(), hint };
        self.errors.borrow_mut().push(error);
    }

    pub(super) fn any(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// Everything, in the order of the file.
    pub(super) fn into_errors(self) -> Vec<SpecError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        errors.dedup();
        errors
    }
}

/// A table of the document whose keys have been checked.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    path: String,
    offset: usize,
    problems: &'a Problems<'a>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(super) fn root(table: &'a DeTable<'a>, problems: &'a Problems<'a>, keys: Keys) -> Self {
        let section = Self { table, path: String::new(), offset: 0, problems };
        section.check_keys(keys);
        section
    }

    fn check_keys(&self, keys: Keys) {
        for field in self.fields() {
            let name = field.name;
            if keys.known.contains(&name) {
                continue;
            }
            if keys.later.contains(&name) {
                field.not_built(name);
                continue;
            }
            field.fail("unknown key", did_you_mean(name, keys.known.iter().chain(keys.later).copied()));
        }
    }

    fn key_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Every key, in no particular order.
    pub(super) fn fields(&self) -> impl Iterator<Item = Field<'a>> {
        self.table.iter().map(|(key, value)| Field {
            name: key.get_ref(),
            key: self.key_of(key.get_ref()),
            offset: key.span().start,
            value: value.get_ref(),
            problems: self.problems,
        })
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        self.fields().find(|f| f.name == name)
    }

    /// The value of a key that must be there.
    pub(super) fn required(&self, name: &str, example: &str) -> Option<Field<'a>> {
        let field = self.get(name);
        if field.is_none() {
            let hint = Some(format!("write for example {example}"));
            self.problems.at(self.offset, &self.key_of(name), "is missing", hint);
        }
        field
    }

    /// Records an error about the table itself.
    pub(super) fn fail(&self, what: impl Into<String>, hint: Option<String>) {
        self.problems.at(self.offset, &self.path, what, hint);
    }
}

/// `did you mean …`, when something like it exists.
pub(super) fn did_you_mean<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
    known
        .map(|k| (likeness(name, k), k))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| format!("did you mean `{k}`?"))
}

/// Jaro-Winkler, which is blind to swapped letters in short words; one slip counts as very alike.
fn likeness(name: &str, known: &str) -> f64 {
    let one_slip = known.len() > 2 && strsim::osa_distance(name, known) == 1;
    strsim::jaro_winkler(name, known).max(if one_slip { 0.9 } else { 0.0 })
}

/// One key with its value.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    /// The last part of the key.
    pub(super) name: &'a str,
    /// The whole key, dotted.
    pub(super) key: String,
    offset: usize,
    value: &'a DeValue<'a>,
    problems: &'a Problems<'a>,
}

impl<'a> Field<'a> {
    /// Records an error.
    pub(super) fn fail(&self, what: impl Into<String>, hint: Option<String>) {
        self.problems.at(self.offset, &self.key, what, hint);
    }

    /// Records that a feature is known and not built.
    pub(super) fn not_built(&self, name: &str) {
        self.fail(format!("`{name}` is not built yet in this version"), None);
    }

    fn must_be<T>(&self, wanted: &str) -> Option<T> {
        let found = self.value.type_str();
        self.fail(format!("must be {wanted}, and is a value of type {found}"), None);
        None
    }

    pub(super) fn value(&self) -> &'a DeValue<'a> {
        self.value
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match self.value.as_str() {
            Some(text) if text.contains('\0') => {
                self.fail("holds a zero byte", None);
                None
            }
            Some(text) => Some(text),
            None => self.must_be("a text in quotes"),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.must_be("true or false"))
    }

    /// An integer from `min` to `max`.
    pub(super) fn integer(&self, min: u32, max: u32) -> Option<u32> {
        let Some(integer) = self.value.as_integer() else {
            return self.must_be("a whole number without quotes");
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|n| u32::try_from(n).ok()).filter(|n| (min..=max).contains(n));
        if number.is_none() {
            self.fail(format!("`{integer}` is out of range"), Some(format!("write {min} to {max}")));
        }
        number
    }

    /// A time of at least `min`.
    pub(super) fn duration(&self, min: Millis) -> Option<Millis> {
        if let Some(number) = self.value.as_integer() {
            self.fail("a time needs a unit", Some(format!("write for example \"{number}s\"")));
            return None;
        }
        let parsed = self.checked(parse_duration(self.text()?))?;
        if parsed < min {
            self.fail(format!("`{parsed}` is too short"), Some(format!("write at least \"{min}\"")));
            return None;
        }
        Some(parsed)
    }

    /// A size in bytes.
    pub(super) fn size(&self) -> Option<u64> {
        match self.value {
            DeValue::Integer(n) => self.checked(parse_size(&n.to_string())),
            _ => self.checked(parse_size(self.text()?)),
        }
    }

    /// A text that parses as `T`.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.checked(self.text()?.parse())
    }

    /// The key itself as a name.
    pub(super) fn named<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.checked(self.name.parse())
    }

    /// One of a few words; `later` are words of features that are not built.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)], later: &[&str]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        if later.contains(&text) {
            self.not_built(text);
            return None;
        }
        let list: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.fail(format!("`{text}` is not allowed"), Some(format!("write {}", list.join(", "))));
        None
    }

    /// A list of texts.
    pub(super) fn texts(&self) -> Option<Vec<Field<'a>>> {
        let items = self.items()?;
        let all_texts = items.iter().filter(|item| item.text().is_some()).count() == items.len();
        all_texts.then_some(items)
    }

    /// The items of a list, each with this key.
    pub(super) fn items(&self) -> Option<Vec<Field<'a>>> {
        let Some(array) = self.value.as_array() else { return self.must_be("a list in [ ]") };
        let item = |v: &'a toml::Spanned<DeValue<'a>>| Field {
            offset: v.span().start,
            value: v.get_ref(),
            ..self.clone()
        };
        Some(array.iter().map(item).collect())
    }

    /// A table with these keys.
    pub(super) fn section(&self, keys: Keys) -> Option<Section<'a>> {
        let section = self.free_section()?;
        section.check_keys(keys);
        Some(section)
    }

    /// A table with names as keys.
    pub(super) fn free_section(&self) -> Option<Section<'a>> {
        let Some(table) = self.value.as_table() else {
            return self.must_be(&format!("a table [{}]", self.key));
        };
        Some(Section { table, path: self.key.clone(), offset: self.offset, problems: self.problems })
    }

    /// Records the error of a conversion.
    pub(super) fn checked<T, E: Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.fail(e.to_string(), None)).ok()
    }
}
