//! How words, assignments and paths are written in unit files, so that systemd reads back exactly them.

/// Quotes an assignment for `Environment=`.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '%' => out.push_str("%%"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Quotes a word for `ExecStart=`, where `$` would be replaced too.
pub(super) fn quote_exec(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:,=@".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) && word != ";" {
        word.to_owned()
    } else {
        quote(word).replace('$', "$$")
    }
}

/// Paths in directives that take one path: only specifiers matter.
pub(super) fn escape_path(path: &str) -> String {
    path.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_systemd_quoting() {
        // (word, as it stands in ExecStart=)
        for (word, line) in [
            ("bin/web", "bin/web"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("100%", "\"100%%\""),
            ("$HOME", "\"$$HOME\""),
            ("say \"hi\"", "\"say \\\"hi\\\"\""),
            ("it's", "\"it's\""),
            ("back\\slash", "\"back\\\\slash\""),
            ("two\nlines", "\"two\\nlines\""),
            (";", "\";\""),
        ] {
            assert_eq!(quote_exec(word), line);
        }
    }

    #[test]
    fn an_environment_keeps_its_dollar() {
        assert_eq!(quote("A=$B %h \"x\"\n"), "\"A=$B %%h \\\"x\\\"\\n\"");
    }
}
