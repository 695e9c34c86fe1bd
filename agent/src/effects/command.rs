//! Commands of a release, as transient units: what is around them is that of a process, sandbox and all.

use std::time::Duration;

use deployd_api::error::ErrorBody;
use deployd_core::health::Sample;
use deployd_core::units::{Setting, Surroundings, Value};

use super::RealHost;
use super::failure::step_failed;
use crate::host::probe::{Target, forward::Forward};
use crate::host::systemd::{Ended, Leftover, Property, PropertyValue, TransientSpec};

/// Largest file that a command of a check may write, its output among them.
const FILE_MAX: u64 = 8 << 20;

impl RealHost {
    /// A check that is a command, with a URL that leads to the candidate alone.
    pub(super) async fn exec_check(
        &self,
        unit: &str,
        command: &[String],
        around: &Surroundings,
        limit: Duration,
        target: Option<&Target>,
    ) -> Result<Sample, ErrorBody> {
        let forward = match target {
            Some(target) => Some(Forward::open(target.clone()).await.map_err(|e| step_failed(&e))?),
            None => None,
        };
        let url = forward.iter().map(|f| ("DEPLOYD_CANDIDATE_URL".to_owned(), f.url())).collect();
        let mut properties: Vec<Property> = around.settings().iter().map(property).collect();
        // Its output stands in memory until it is read.
        properties.push(Property::new("LimitFSIZE", PropertyValue::Number(FILE_MAX)));
        let spec = TransientSpec {
            words: command.to_vec(),
            env: url,
            properties,
            output: Some(super::output_of(unit)),
            timeout: limit,
            ..TransientSpec::default()
        };
        let ran = self.systemd.run_transient(unit, &spec, Leftover::Stop).await;
        let outcome = ran.map_err(|e| step_failed(&e))?;
        let said = || outcome.output.lines().last().map(|l| format!(": {l}")).unwrap_or_default();
        let words = shown(command);
        Ok(match outcome.ended {
            Ended::Exited(0) => Sample::Pass,
            Ended::Exited(status) => Sample::Fail(format!("`{words}` exited with {status}{}", said())),
            Ended::Killed(signal) => Sample::Fail(format!("signal {signal} killed `{words}`")),
            Ended::TimedOut => Sample::Fail(format!("`{words}` ran longer than {} s", limit.as_secs())),
            Ended::NotStarted => Sample::Fail(format!("`{words}` could not be started")),
        })
    }
}

/// The words as the spec has them: without the trampoline that gives them secrets.
fn shown(command: &[String]) -> String {
    let wrapped = command.first().is_some_and(|program| program.ends_with("/deployd-exec"));
    let from = command.iter().position(|word| wrapped && word == "--").map_or(0, |at| at + 1);
    command[from..].join(" ")
}

/// A directive of a unit file as a property on the bus: each has one there, of the same name.
pub fn property(setting: &Setting) -> Property {
    let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
    let assign = |name: &str, value: &str| PropertyValue::List(vec![format!("{name}={value}")]);
    let value = match &setting.value {
        Value::Yes => PropertyValue::Flag(true),
        Value::Word(word) => PropertyValue::Text((*word).to_owned()),
        Value::Path(path) => PropertyValue::Text(path.clone()),
        // Sets, as bits: the empty ones.
        Value::NoCapability | Value::NoNamespace => PropertyValue::Number(0),
        Value::Mode(bits) => PropertyValue::Small(*bits),
        Value::Errno(number, _) => PropertyValue::Signed(*number),
        Value::Words(words) => PropertyValue::List(words.clone()),
        Value::Allow(words) => PropertyValue::Filter(true, owned(words)),
        Value::Deny(words) => PropertyValue::Filter(false, owned(words)),
        Value::Bytes(bytes) => PropertyValue::Number(*bytes),
        Value::Credential(id, path) => PropertyValue::Pairs(vec![(id.clone(), path.clone())]),
        Value::Mount(from, to) => PropertyValue::Mounts(vec![(from.clone(), to.clone(), false, 0)]),
        Value::Variable(name, value) | Value::Numbered(name, value) => assign(name, value),
    };
    Property::new(setting.name, value)
}
