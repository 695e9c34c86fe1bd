//! Values with units, as people write them: `30s`, `5m`, `1gb`; and a command's words.

use super::Millis;

/// `500ms`, `10s`, `5m`, `2h`, `1d`, or several in a row (`1m30s`). A bare number is refused.
pub fn parse_duration(_text: &str) -> Result<Millis, String> {
    Err("not built".to_owned())
}

/// `512` (MiB, as Fly), `512mb`, `1gb`, `1G`, `1.5G`.
pub fn parse_size(_text: &str) -> Result<u64, String> {
    Err("not built".to_owned())
}

/// Splits a command as systemd does: words by white space, `"…"` and `'…'`, `\` escapes; no shell.
pub fn split_words(_text: &str) -> Result<Vec<String>, String> {
    Err("not built".to_owned())
}
