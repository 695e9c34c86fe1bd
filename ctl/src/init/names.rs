//! Names of other tools, made valid here. Pure.

/// Longest name of an app.
const LENGTH_MAX: usize = 20;

/// `My_Shop` → `my-shop`.
pub(super) fn app(name: &str) -> String {
    word(name).unwrap_or_else(|| "app".to_owned())
}

/// A name of a process or app; `None` when nothing of it can stand.
pub(super) fn word(name: &str) -> Option<String> {
    let mut out = String::new();
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' => out.push(c),
            '0'..='9' if !out.is_empty() => out.push(c),
            _ if out.is_empty() || out.ends_with('-') => {}
            _ => out.push('-'),
        }
    }
    out.truncate(LENGTH_MAX);
    let out = out.trim_end_matches('-');
    (!out.is_empty()).then(|| out.to_owned())
}

#[cfg(test)]
mod tests {
    use deployd_api::ids::AppName;

    use super::*;

    #[test]
    fn every_name_becomes_valid() {
        for (name, want) in [
            ("shop", "shop"),
            ("My_Shop", "my-shop"),
            ("@scope/web.app", "scope-web-app"),
            ("9lives", "lives"),
            ("a--b__c", "a-b-c"),
            ("a-very-long-name-of-an-app", "a-very-long-name-of"),
            ("héllo", "h-llo"),
            ("", "app"),
            ("日本", "app"),
        ] {
            assert_eq!(app(name), want);
            app(name).parse::<AppName>().unwrap();
        }
    }
}
