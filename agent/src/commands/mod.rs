//! Commands that people run in the surroundings of the live release: `exec`, `console`, `run`.
//!
//! | module | |
//! |---|---|
//! | [`order`] | request and state → unit, words, surroundings; every refusal. Pure |
//! | [`ends`] | our ends of what PID 1 gives the program: pipes, or a terminal |
//! | [`session`] | frames of the caller ↔ those ends, until the program or the caller is gone |
//!
//! PID 1 starts them as it starts a process, through the trampoline, in the app's slice. One with a caller
//! (`exec`) ends with it; the other (`run`) goes on, also without an agent, and writes to the journal.

pub mod ends;
pub mod order;
pub mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use deployd_api::command::CommandKind;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::AppName;

use crate::effects::command::property;
use crate::host::systemd::{Property, PropertyValue, TransientSpec};

use ends::Ends;
use order::Order;

/// Commands of one app that may run at one time.
const AT_ONCE: usize = 32;

/// How many commands run, by app. What an agent before this one left running is not counted.
#[derive(Debug, Clone, Default)]
pub struct Commands(Arc<Mutex<HashMap<AppName, usize>>>);

/// A place among them, until it is dropped.
#[derive(Debug)]
pub struct Place {
    of: Commands,
    app: AppName,
}

impl Commands {
    /// A place for one more, or a refusal.
    pub fn enter(&self, app: &AppName) -> Result<Place, ErrorBody> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = running.entry(app.clone()).or_default();
        if *count >= AT_ONCE {
            let message = format!("{AT_ONCE} commands of {app} run already");
            let hint = format!(
                "end one of them; see them on the host: systemctl status deployd-{}.slice",
                app.unit_part()
            );
            return Err(ErrorBody::new(ErrorCode::RateLimited, message, hint));
        }
        *count += 1;
        Ok(Place { of: self.clone(), app: app.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.app) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.app);
            }
        }
    }
}

/// Whether a unit is one of a command, by its name.
pub fn is_command(unit: &str) -> bool {
    let is_id = |id: &str| id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit());
    // Neither part has a dash, so a migration of an app that is named `command` is none.
    let exec = unit.strip_prefix(order::EXEC_PREFIX).and_then(|rest| {
        let (app, id) = rest.strip_suffix(".service")?.split_once('-')?;
        (!app.is_empty() && !app.contains('@') && is_id(id)).then_some(())
    });
    let run = unit.strip_prefix("deployd-").and_then(|rest| {
        let mut parts = rest.strip_suffix("@1.service")?.split('-');
        let (_, process, _, end) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
        let id = process.strip_prefix(order::RUN_PREFIX)?;
        (end.is_none() && is_id(id)).then_some(())
    });
    exec.is_some() || run.is_some()
}

/// The unit of a command.
pub fn transient(order: &Order, ends: &Ends) -> TransientSpec {
    let mut properties: Vec<Property> = order.surroundings.settings().iter().map(property).collect();
    properties.extend(ends.properties());
    if ends.is_terminal() {
        // A shell on a terminal does not heed SIGTERM.
        properties.push(Property::new("SendSIGHUP", PropertyValue::Flag(true)));
    }
    if order.kind == CommandKind::Run {
        // All that it says, for whoever reads it later.
        properties.push(Property::new("LogRateLimitIntervalUSec", PropertyValue::Number(0)));
    }
    let env = order.term.iter().map(|term| ("TERM".to_owned(), term.clone())).collect();
    TransientSpec { words: order.words.clone(), env, properties, ..TransientSpec::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_run_at_once_and_no_more() {
        let (commands, shop): (Commands, AppName) = (Commands::default(), "shop".parse().unwrap());
        let mut places: Vec<Place> = (0..AT_ONCE).map(|_| commands.enter(&shop).unwrap()).collect();
        assert_eq!(commands.enter(&shop).unwrap_err().code, ErrorCode::RateLimited);
        assert!(commands.enter(&"blog".parse().unwrap()).is_ok());
        places.pop();
        places.push(commands.enter(&shop).unwrap());
        assert!(commands.enter(&shop).is_err());
        drop(places);
        assert!(commands.0.lock().unwrap().is_empty());
    }

    #[test]
    fn units_of_commands_are_known_by_their_names() {
        for (unit, is) in [
            ("deployd-command-shop-0a1b2c3d.service", true),
            ("deployd-command-my_app-0a1b2c3d.service", true),
            ("deployd-command-migrate-v3.service", false),
            ("deployd-command-0a1b2c3d.service", false),
            ("deployd-command-shop-0a1b2c3.service", false),
            ("deployd-command-shop-0a1b2c3d-v1.service", false),
            ("deployd-shop-run_0a1b2c3d-v42.2@1.service", true),
            ("deployd-shop-run_x-v42@1.service", false),
            ("deployd-shop-web-v42@1.service", false),
            ("deployd-command-web-v1@1.service", false),
            ("deployd-command-http-v1.socket", false),
        ] {
            assert_eq!(is_command(unit), is, "{unit}");
        }
    }
}
