//! A path that says whether the app is well, looked for in its sources.

use super::draft::Check;
use super::sources::Sources;

/// Paths by which such a thing usually goes, the most telling first.
const PATHS: [&str; 10] = [
    "/healthz",
    "/health",
    "/readyz",
    "/up",
    "/livez",
    "/_health",
    "/health_check",
    "/health-check",
    "/healthcheck",
    "/ping",
];

/// The check for an app with sources of these extensions.
pub(super) fn find(sources: &Sources, extensions: &[&str]) -> Check {
    let found = sources.search(extensions, |file, text| {
        let path = PATHS.iter().find(|path| names(text, path))?;
        Some(Check::Path { path: (*path).to_owned(), from: format!("found in {file}") })
    });
    found.unwrap_or(Check::Root)
}

/// Whether the text has the path as a whole string, in a line of code.
fn names(text: &str, path: &str) -> bool {
    let strings = [format!("\"{path}\""), format!("'{path}'")];
    let code = text.lines().filter(|line| !line.trim_start().starts_with(['#', '/']));
    code.into_iter().any(|line| strings.iter().any(|string| line.contains(string)))
}

/// The check for routes in blocks of `scope "/api" … end`: paths are put together.
pub(super) fn find_in_router(file: &str, text: &str) -> Check {
    let mut scopes: Vec<(usize, &str)> = Vec::new();
    let (mut has_root, mut best): (bool, Option<(usize, String)>) = (false, None);
    for line in text.lines() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if code.trim_end() == "end" {
            scopes.retain(|(outer, _)| *outer < indent);
        }
        let Some(path) = first_string(code).filter(|path| path.starts_with('/')) else { continue };
        if code.starts_with("scope ") && code.trim_end().ends_with("do") {
            scopes.push((indent, path));
            continue;
        }
        if !["get ", "get(", "live ", "forward ", "match "].iter().any(|word| code.starts_with(word)) {
            continue;
        }
        let whole: String = scopes.iter().map(|(_, scope)| scope.trim_end_matches('/')).collect();
        has_root |= whole.is_empty() && path == "/";
        if let Some(rank) = PATHS.iter().position(|known| *known == path)
            && best.as_ref().is_none_or(|(before, _)| rank < *before)
        {
            best = Some((rank, format!("{whole}{path}")));
        }
    }
    match best {
        Some((_, path)) => Check::Path { path, from: format!("found in {file}") },
        None if has_root => Check::Root,
        None => Check::Tcp,
    }
}

fn first_string(code: &str) -> Option<&str> {
    code.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_phoenix_are_put_together() {
        let router = |lines: &str| find_in_router("router.ex", lines);
        let path = |path: &str| Check::Path { path: path.into(), from: "found in router.ex".into() };
        let home = "  scope \"/\", ShopWeb do\n    get \"/\", PageController, :home\n  end\n";
        assert_eq!(router(home), Check::Root);
        let api = "  scope \"/api\", ShopWeb do\n    get \"/\", X, :y\n    get \"/health\", X, :y\n  end\n";
        assert_eq!(router(api), path("/api/health"));
        let both = format!("{api}  get \"/healthz\", X, :y\n");
        assert_eq!(router(&both), path("/healthz"));
        assert_eq!(router("  scope \"/api\", ShopWeb do\n    get \"/\", X, :y\n  end\n"), Check::Tcp);
        assert_eq!(router("  # get \"/health\", X\n"), Check::Tcp);
    }

    #[test]
    fn only_whole_strings_in_code_are_paths() {
        assert!(names("app.get('/health', ok)", "/health"));
        assert!(!names("app.get('/healthy', ok)", "/health"));
        assert!(!names("// see '/health'", "/health"));
    }
}
