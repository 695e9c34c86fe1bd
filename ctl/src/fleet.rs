//! `fleet.toml`: the hosts there are, in groups, with labels.
//!
//! | module | does |
//! |---|---|
//! | [`address`] | `10.0.0.11`, `web1.example.net:7443`, `[::1]:7443` |
//! | [`mod@find`] | which file it is |
//! | [`mod@parse`] | from text to a [`Fleet`], every error with its line |
//! | [`select`] | from selectors to hosts |
//! | [`edit`] | hosts in and out of the file, comments kept |

mod address;
mod edit;
mod find;
mod parse;
mod select;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::HostName;

pub(crate) use self::address::{Address, PORT};
pub(crate) use self::edit::{Change, put, remove};
pub(crate) use self::find::{find, place_of_new};
pub(crate) use self::parse::parse;

use crate::error::CtlError;

/// A host of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FleetHost {
    pub(crate) name: HostName,
    pub(crate) address: Address,
    pub(crate) groups: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// The fleet, as its file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fleet {
    /// As errors name it: the path that was given or found.
    pub(crate) file: PathBuf,
    /// In the order of their names.
    pub(crate) hosts: Vec<FleetHost>,
}

impl Fleet {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, CtlError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| {
            let next =
                "name the file: --fleet FILE; or make one: deployd-ctl hosts add NAME --ssh root@ADDRESS";
            invalid(format!("cannot read the fleet {shown}"), next).cause("what", e.to_string())
        });
        let text = text.map_err(answer)?;
        let hosts = parse(&text).map_err(|errors| {
            let mut body = invalid(format!("{shown} has errors"), "correct them and run again");
            for error in errors {
                body = body.cause("where", format!("{shown}:{error}"));
            }
            answer(body)
        })?;
        Ok(Self { file: path.to_owned(), hosts })
    }

    /// The host of this name.
    pub(crate) fn host(&self, name: &str) -> Option<&FleetHost> {
        self.hosts.iter().find(|host| host.name.as_str() == name)
    }
}

/// Something is wrong with the fleet's file, or with what was asked of it.
fn invalid(message: impl Into<String>, hint: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::FleetInvalid, message, hint)
}

fn answer(body: ErrorBody) -> CtlError {
    CtlError::Answer(Box::new(body))
}
