//! Links of an artifact, resolved as the kernel will: a link reached through another link may leave the
//! tree although each of them alone looks harmless.
//!
//! Pure. [`super::staging`] calls it before anything is written, [`super::peek`] to find a program.

use std::collections::HashMap;

use deployd_api::manifest::{EntryKind, InvalidManifest, Manifest};

/// Links followed before we give up; the kernel gives up after 40.
const FOLLOW_MAX: usize = 40;

/// Refuses a manifest in which following any link leads out of the tree.
pub(super) fn check_links(manifest: &Manifest) -> Result<(), InvalidManifest> {
    let links = Links::of(manifest);
    for path in links.0.keys() {
        if links.follow(path) == Followed::Outside {
            let reason = "following its target through other links leaves the tree";
            return Err(InvalidManifest { path: (*path).to_owned(), reason });
        }
    }
    Ok(())
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Followed {
    /// To this path, no part of which is a link.
    To(String),
    /// Above the root.
    Outside,
    /// Nowhere: in a circle.
    Circle,
}

/// The links of an artifact: path and target.
pub(super) struct Links<'a>(HashMap<&'a str, &'a str>);

impl<'a> Links<'a> {
    pub(super) fn of(manifest: &'a Manifest) -> Self {
        let link = |e: &'a deployd_api::manifest::Entry| match &e.kind {
            EntryKind::Link { target } => Some((e.path.as_str(), target.as_str())),
            EntryKind::File { .. } | EntryKind::Dir => None,
        };
        Self(manifest.entries().iter().filter_map(link).collect())
    }

    /// Resolves a path, part by part.
    pub(super) fn follow(&self, path: &str) -> Followed {
        let mut at: Vec<&str> = Vec::new();
        let mut todo: Vec<&str> = path.rsplit('/').collect();
        let mut followed = 0;
        while let Some(part) = todo.pop() {
            match part {
                "" | "." => {}
                ".." => {
                    if at.pop().is_none() {
                        return Followed::Outside;
                    }
                }
                name => {
                    at.push(name);
                    if let Some(target) = self.0.get(at.join("/").as_str()) {
                        followed += 1;
                        if followed > FOLLOW_MAX {
                            return Followed::Circle;
                        }
                        at.pop();
                        todo.extend(target.rsplit('/'));
                    }
                }
            }
        }
        Followed::To(at.join("/"))
    }
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

    /// `current/bin/app`, where `current` is a link to a folder, is the program that will run.
    #[test]
    fn a_path_below_a_linked_folder_is_found() {
        let manifest = manifest(&[("current", "versions/v2"), ("versions/v2/bin/app", "../lib/app")]);
        let links = Links::of(&manifest);
        assert_eq!(links.follow("current/bin/app"), Followed::To("versions/v2/lib/app".to_owned()));
        assert_eq!(links.follow("./current/x"), Followed::To("versions/v2/x".to_owned()));
        assert_eq!(links.follow("current/../../../x"), Followed::Outside);
    }
}
