//! Whether a JSON value contains another: objects may have more keys, everything else must be equal. Pure.

use std::fmt;

use serde_json::Value;

/// The first place where a value lacks what it should contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Where, as `a.b[0]`; empty for the whole.
    pub at: String,
    /// What should be there, as JSON.
    pub wanted: String,
    /// What is there; `None` is nothing.
    pub got: Option<String>,
}

/// Longest text of a value that is shown.
const SHOWN_MAX: usize = 200;

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = if self.at.is_empty() { "body" } else { &self.at };
        write!(f, "{at} = {}, got {}", self.wanted, self.got.as_deref().unwrap_or("nothing"))
    }
}

/// Checks that `got` contains `wanted`.
pub fn check(wanted: &Value, got: &Value) -> Result<(), Mismatch> {
    check_at(String::new(), wanted, Some(got))
}

fn check_at(at: String, wanted: &Value, got: Option<&Value>) -> Result<(), Mismatch> {
    match (wanted, got) {
        (Value::Object(wanted), Some(Value::Object(got))) => wanted.iter().try_for_each(|(key, value)| {
            let dot = if at.is_empty() { "" } else { "." };
            check_at(format!("{at}{dot}{key}"), value, got.get(key))
        }),
        (Value::Array(wanted), Some(Value::Array(got))) if wanted.len() == got.len() => wanted
            .iter()
            .zip(got)
            .enumerate()
            .try_for_each(|(i, (wanted, got))| check_at(format!("{at}[{i}]"), wanted, Some(got))),
        (wanted, Some(got)) if wanted == got => Ok(()),
        (wanted, got) => Err(Mismatch { at, wanted: shown(wanted), got: got.map(shown) }),
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_may_have_more_keys() {
        let got = json!({"status": "ok", "checks": {"db": "ok", "cache": "ok"}, "list": [{"a": 1, "b": 2}]});
        for wanted in
            [json!({}), json!({"status": "ok"}), json!({"checks": {"db": "ok"}}), json!({"list": [{"a": 1}]})]
        {
            assert_eq!(check(&wanted, &got), Ok(()), "{wanted}");
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let got = json!({"status": "error", "list": [1, 2]});
        let at = |wanted: Value| check(&wanted, &got).unwrap_err().to_string();
        assert_eq!(at(json!({"status": "ok"})), r#"status = "ok", got "error""#);
        assert_eq!(at(json!({"a": {"b": 1}})), r#"a = {"b":1}, got nothing"#);
        assert_eq!(at(json!({"list": [1, 3]})), "list[1] = 3, got 2");
        assert_eq!(at(json!({"list": [1]})), "list = [1], got [1,2]");
        assert_eq!(check(&json!(1), &json!(1.5)).unwrap_err().to_string(), "body = 1, got 1.5");
    }
}
