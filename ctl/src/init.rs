//! The first `deployd.toml` of a project, from what its folder says.
//!
//! | module | does |
//! |---|---|
//! | [`sources`] | reads the folder, within bounds |
//! | [`mix`], [`node`], [`python`], [`rails`], [`rust`] | one kind of project each |
//! | [`others`] | what was written for other tools: `Procfile`, `Dockerfile`; [`fly`]: `fly.toml` |
//! | [`health`] | a path that says whether the app is well |
//! | [`mod@draft`] | the file as text |
//! | [`names`] | names that are valid here |
//!
//! It guesses, so it says what it took from where, and writes little. Nothing of the project is run.

mod draft;
mod fly;
mod health;
mod mix;
mod names;
mod node;
mod others;
mod python;
mod rails;
mod rust;
mod sources;

use std::path::Path;

use deployd_api::ids::AppName;

pub(crate) use draft::{Check, Draft};
use sources::Sources;

/// A draft for the project in this folder. `app` wins over every name that is found; `groups` are those of the fleet, if
/// there is one.
pub(crate) fn draft(folder: &Path, app: Option<&AppName>, groups: Option<Vec<String>>) -> Draft {
    let sources = Sources::new(folder);
    let kinds = [
        mix::read,
        rails::read,
        rust::read,
        python::read,
        node::read,
        python::read_script,
        node::read_script,
    ];
    let mut draft = kinds.iter().find_map(|read| read(&sources)).unwrap_or_else(|| Draft::new("unknown"));
    others::add(&sources, &mut draft);
    fly::add(&sources, &mut draft);
    let name = app.map(ToString::to_string).or_else(|| draft.app.take());
    let own = || sources.folder_name();
    draft.app = Some(names::app(&name.unwrap_or_else(own)));
    draft.groups = groups;
    draft
}

#[cfg(test)]
mod tests;
