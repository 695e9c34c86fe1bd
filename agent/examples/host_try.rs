//! Tries the host operations by hand on a real systemd host: `host_try VERB ARGS…`, as root.
use deployd::host::systemd::*;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let systemd = Systemd::connect().await?;
    match words.as_slice() {
        ["version"] => println!("{}", systemd.version().await?),
        ["start", unit] => println!("{:?}", systemd.start(unit).await?),
        ["stop", unit] => println!("{:?}", systemd.stop(unit).await?),
        ["restart", unit] => println!("{:?}", systemd.restart(unit).await?),
        ["show", unit] => println!("{:#?}", systemd.unit(unit).await?),
        ["list", patterns @ ..] => println!("{:#?}", systemd.list(patterns).await?),
        ["reload"] => systemd.daemon_reload().await?,
        ["wait", unit, state, secs] => {
            let deadline = Instant::now() + Duration::from_secs(secs.parse()?);
            println!(
                "{:?}",
                systemd.wait_until(unit, |u| u.is_some_and(|u| u.active_state == *state), deadline).await?
            );
        }
        ["run", name, secs, rest @ ..] => {
            let spec = TransientSpec {
                words: rest.iter().map(|w| (*w).to_owned()).collect(),
                env: vec![("HELLO".into(), "a b".into())],
                stdin: Some(b"from stdin\n".to_vec()),
                output: Some(format!("/run/{name}.out").into()),
                timeout: Duration::from_secs(secs.parse()?),
                properties: vec![Property {
                    name: "SystemCallFilter".into(),
                    value: PropertyValue::Filter(true, vec!["@system-service".into()]),
                }],
                user: Some("daemon".into()),
            };
            println!("{:?}", systemd.run_transient(name, &spec).await);
        }
        other => anyhow::bail!("unknown verb {other:?}"),
    }
    Ok(())
}
