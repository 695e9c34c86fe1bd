//! `bench datapath`: requests per second of the same program, bare, behind our listener, and behind proxies.
//!
//! Ours is measured in its dearest state: two releases in the listener group and the program that steers.

use std::time::Duration;

use anyhow::{Result, ensure};
use deployd_tests::load::Pattern;
use deployd_tests::machine::Host;
use serde_json::{Map, Value, json};

use super::Size;
use super::peers::{BARE, Peers, SOCKET_PROXYD, Way};
use super::rig::{App, Field, PORT, median};

/// The old release stays in the group while the new one is watched.
const WATCHED: &str = "min_healthy = \"0s\"\nmonitor = \"1h\"";
const PATTERNS: [(&str, Pattern); 2] =
    [("keepalive", Pattern::KeepAlive), ("newconn", Pattern::NewConnection)];

/// What socket-proxyd may keep of the bare rate at most, in either pattern.
const SECOND_HOP: f64 = 0.8;

/// One way to reach the program.
struct Path<'a> {
    key: &'static str,
    host: &'a Host,
    port: u16,
}

pub(super) fn run(size: Size) -> Result<Value> {
    let field = Field::prepare()?;
    let app = App { name: "shop", port: PORT, work_us: 0, deploy: WATCHED };
    // The push of a watched release returns when it is committed, which is never: only live is waited for.
    app.push_live(&field.ours, 1)?;
    app.push_live(&field.ours, 2)?;
    let listeners = field.ours.host.ok(&format!("ss -Hltn 'sport = :{PORT}' | wc -l"))?;
    ensure!(listeners == "2", "{listeners} listeners in the group instead of 2");
    let _peers = Peers::start(&field.peers, 0, field.proxies)?;
    let ours = &field.ours.host;
    let peers = &field.peers;
    let mut paths = vec![
        Path { key: "bare_rps", host: peers, port: BARE },
        Path { key: "ours_rps", host: ours, port: PORT },
        Path { key: "socket_proxyd_rps", host: peers, port: SOCKET_PROXYD },
    ];
    if field.proxies {
        paths.push(Path { key: "haproxy_rps", host: peers, port: Way::Haproxy.port() });
        paths.push(Path { key: "nginx_rps", host: peers, port: Way::Nginx.port() });
    }
    let (rounds, span) = size.pick((4, Duration::from_millis(1500)), (15, Duration::from_secs(4)));
    let mut result = json!({ "runs": rounds, "systemd": field.systemd()?, "listeners": 2 });
    for (name, pattern) in PATTERNS {
        let mut rates: Vec<Vec<f64>> = vec![Vec::new(); paths.len()];
        for round in 0..rounds {
            // Whoever comes first in a round differs from round to round.
            for turn in 0..paths.len() {
                let index = (turn + round) % paths.len();
                let path = &paths[index];
                rates[index].push(field.rate(path.host, path.port, pattern, span)?);
            }
        }
        let mut keys = Map::new();
        for absent in ["haproxy_rps", "nginx_rps"] {
            keys.insert(absent.to_owned(), Value::Null);
        }
        for (path, rates) in paths.iter().zip(&rates) {
            keys.insert(path.key.to_owned(), json!(median(rates).map(f64::round)));
        }
        // Of each round, then the median of the ratios: both had the same minute.
        let ratios: Vec<f64> = rates[1].iter().zip(&rates[0]).map(|(ours, bare)| ours / bare).collect();
        result[format!("ours_ratio_{name}")] = json!(median(&ratios));
        eprintln!("{name}: {}", Value::Object(keys.clone()));
        result[name] = Value::Object(keys);
    }
    field.finish()?;
    for (name, _) in PATTERNS {
        // The positive control: a second hop that costs nothing would mean that the load is not the program's.
        let rate = |key| result[name][key].as_f64().unwrap_or_default();
        ensure!(
            rate("socket_proxyd_rps") < SECOND_HOP * rate("bare_rps"),
            "{name}: a proxy costs nothing here: the load generator is the limit, and this run proves nothing"
        );
    }
    Ok(result)
}
