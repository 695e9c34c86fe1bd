//! Links of an artifact, resolved as the kernel will: a link reached through another link may leave the
//! tree although each of them alone looks harmless.
//!
//! Pure. [`super::staging`] calls it before anything is written.

use std::collections::HashMap;

use deployd_api::manifest::{EntryKind, InvalidManifest, Manifest};

/// Links followed before we give up; the kernel gives up after 40.
const FOLLOW_MAX: usize = 40;

/// Refuses a manifest in which following any link leads out of the tree.
pub(super) fn check_links(manifest: &Manifest) -> Result<(), InvalidManifest> {
    let links: HashMap<&str, &str> = manifest
        .entries()
        .iter()
        .filter_map(|e| match &e.kind {
            EntryKind::Link { target } => Some((e.path.as_str(), target.as_str())),
            EntryKind::File { .. } | EntryKind::Dir => None,
        })
        .collect();
    for path in links.keys() {
        if leaves(path, &links) {
            let reason = "following its target through other links leaves the tree";
            return Err(InvalidManifest { path: (*path).to_owned(), reason });
        }
    }
    Ok(())
}

/// Whether resolving `path` ever goes above the root. A loop leads nowhere, so not out either.
fn leaves(path: &str, links: &HashMap<&str, &str>) -> bool {
    let mut at: Vec<&str> = Vec::new();
    let mut todo: Vec<&str> = path.rsplit('/').collect();
    let mut followed = 0;
    while let Some(part) = todo.pop() {
        match part {
            "" | "." => {}
            ".." => {
                if at.pop().is_none() {
                    return true;
                }
            }
            name => {
                at.push(name);
                if let Some(target) = links.get(at.join("/").as_str()) {
                    followed += 1;
                    if followed > FOLLOW_MAX {
                        return false;
                    }
                    at.pop();
                    todo.extend(target.rsplit('/'));
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use deployd_api::manifest::Entry;

    use super::*;

    fn manifest(links: &[(&str, &str)]) -> Manifest {
        let entry = |(path, target): &(&str, &str)| Entry {
            path: (*path).into(),
            kind: EntryKind::Link { target: (*target).into() },
        };
        Manifest::new(links.iter().map(entry).collect()).unwrap()
    }

    #[test]
    fn a_link_through_a_link_may_not_leave() {
        // Each passes alone: p/q/d is the root, so p/q/d/.. is above it.
        assert!(check_links(&manifest(&[("p/q/d", "../.."), ("m", "p/q/d/..")])).is_err());
        assert!(
            check_links(&manifest(&[("p/q/d", "../.."), ("m", "p/q/d/x"), ("x", "p/q/d/../up")])).is_err()
        );
    }

    #[test]
    fn links_that_stay_or_lead_nowhere_are_fine() {
        for good in [
            &[("current", "v1/app"), ("v1/app", "../shared/app")][..],
            &[("a", "b"), ("b", "a")],
            &[("a", "a/a/a")],
            &[("bin/x", "../lib/../lib/x"), ("lib64", "lib")],
        ] {
            assert!(check_links(&manifest(good)).is_ok(), "{good:?}");
        }
    }
}
