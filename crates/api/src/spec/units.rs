//! Values with units, as people write them: `30s`, `5m`, `1gb`; and a command's words.
//!
//! Pure text work, called by the spec parser and by ctl's flags. Errors are fragments that follow the
//! name of the key; they say what to write instead. Never panics, whatever the text.

use std::fmt;

use super::Millis;

/// Units of time, largest first (the order in which they are printed), in milliseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// `500ms`, `10s`, `5m`, `2h`, `1d`, or several in a row (`1m30s`). A bare number is refused.
pub fn parse_duration(text: &str) -> Result<Millis, String> {
    let text = text.trim();
    let wrong =
        || format!("`{text}` is not a time; write for example \"500ms\", \"30s\", \"5m\" or \"1h30m\"");
    if text.is_empty() {
        return Err(wrong());
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, next) = after.split_at(letters);
        if digits > 0 && unit.is_empty() && next.is_empty() {
            return Err(format!("`{text}` has no unit; write for example \"{number}s\""));
        }
        let Some((_, factor)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(wrong());
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = number.checked_mul(*factor).and_then(|ms| total.checked_add(ms));
        total = part.ok_or_else(|| format!("`{text}` is too long a time"))?;
        rest = next;
    }
    Ok(Millis(total))
}

impl fmt::Display for Millis {
    /// In the form that [`parse_duration`] reads: `1m30s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, factor) in TIME_UNITS {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

/// `512` (MiB, as Fly), `512mb`, `1gb`, `1G`, `1.5G`. Units are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || format!("`{text}` is not a size; write for example \"512mb\", \"1.5gb\" or 512 (MiB)");
    let split = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Twelve decimals keep `fraction << 40` far inside 128 bits.
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 12 {
        return Err(wrong());
    }
    let whole: u128 = whole.parse().map_err(|_| wrong())?;
    let scale = 10_u128.pow(fraction.len() as u32);
    let fraction: u128 = fraction.parse().map_err(|_| wrong())?;
    whole
        .checked_mul(scale)
        .and_then(|w| w.checked_add(fraction))
        .and_then(|w| w.checked_mul(1 << shift))
        .and_then(|w| u64::try_from(w / scale).ok())
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// Splits a command as systemd does: words by white space, `"…"` and `'…'`, `\` escapes; no shell.
pub fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (_, '\0') => return Err("a zero byte is not allowed".to_owned()),
            (_, '\\') => word.get_or_insert_default().push(unescape(&mut chars)?),
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_ascii_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(format!("the quote {open} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

/// The character after a `\`, by systemd's table.
fn unescape(chars: &mut std::str::Chars<'_>) -> Result<char, String> {
    let Some(c) = chars.next() else { return Err("a \\ stands at the end".to_owned()) };
    Ok(match c {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        's' | ' ' => ' ',
        '\\' | '"' | '\'' => c,
        'x' => code_point(chars, 2, c)?,
        'u' => code_point(chars, 4, c)?,
        'U' => code_point(chars, 8, c)?,
        _ => return Err(format!("\\{c} is not an escape that systemd knows; write \\\\ for a backslash")),
    })
}

/// The character with the number in the next `digits` hexadecimal digits.
fn code_point(chars: &mut std::str::Chars<'_>, digits: usize, letter: char) -> Result<char, String> {
    let text: String = chars.by_ref().take(digits).collect();
    let number = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits);
    // `\x80` and above would be a lone byte, which is no text.
    let allowed = number.filter(|n| *n > 0 && (letter != 'x' || *n < 0x80));
    allowed
        .and_then(char::from_u32)
        .ok_or_else(|| format!("\\{letter} needs {digits} hexadecimal digits of a character, not `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1m30s", 90_000),
            (" 0s ", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Millis(ms)), "{text}");
        }
        for bad in ["", "s", "10", "1m30", "-1s", "1.5s", "1 s", "10sec", "1S", "99999999999999999999s", "é"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("30").unwrap_err().contains("\"30s\""));
        assert!(parse_duration(&format!("{}d", u64::MAX)).unwrap_err().contains("too long"));
    }

    #[test]
    fn sizes() {
        const M: u64 = 1 << 20;
        for (text, bytes) in [
            ("512", 512 * M),
            ("512mb", 512 * M),
            ("512 MB", 512 * M),
            ("1gb", 1024 * M),
            ("1G", 1024 * M),
            ("1.5G", 1536 * M),
            ("1GiB", 1024 * M),
            ("100b", 100),
            ("0.5k", 512),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "1.G", ".5G", "1..5G", "-1", "1x", "99999999999t", "1.0000000000001g"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words() {
        let cases: [(&str, &[&str]); 10] = [
            ("", &[]),
            ("  bin/shop  start\t", &["bin/shop", "start"]),
            ("a 'b c' \"d e\"", &["a", "b c", "d e"]),
            ("a '' b", &["a", "", "b"]),
            ("--x='1 2'", &["--x=1 2"]),
            (r"a\sb c\tc \x41 \u00e4", &["a b", "c\tc", "A", "ä"]),
            (r#""it's""#, &["it's"]),
            (r"'a\'b'", &["a'b"]),
            ("node $PORT; x", &["node", "$PORT;", "x"]),
            ("a\nb", &["a", "b"]),
        ];
        for (text, want) in cases {
            assert_eq!(split_words(text).unwrap(), want, "{text}");
        }
        for bad in ["'a", "a \"", "a\\", "\\q", "\\x4", "\\xff", "\\u00", "\\x00", "\\U00110000"] {
            assert!(split_words(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_back_as_it_was_printed(ms in any::<u64>()) {
            prop_assert_eq!(parse_duration(&Millis(ms).to_string()), Ok(Millis(ms)));
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text), split_words(&text));
        }

        #[test]
        fn quoted_words_come_back(words in prop::collection::vec("[^\0]*", 0..5)) {
            let quoted: Vec<String> = words
                .iter()
                .map(|w| format!("\"{}\"", w.replace('\\', r"\\").replace('"', r#"\""#)))
                .collect();
            prop_assert_eq!(split_words(&quoted.join(" ")).unwrap(), words);
        }
    }
}
