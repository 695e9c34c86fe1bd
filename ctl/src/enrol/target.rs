//! Which hosts a command line means: `web1 --ssh root@10.0.0.11`, or several as `web1=root@10.0.0.11`.

use deployd_api::ids::HostName;

use crate::cli::HostsAdd;
use crate::error::CtlError;

/// A host to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: HostName,
    /// Where ssh finds it; `None` when the host was made ready without.
    pub(crate) ssh: Option<String>,
}

/// The hosts, in the order of the line.
pub(crate) fn read(args: &HostsAdd) -> Result<Vec<Target>, CtlError> {
    let several = args.hosts.len() > 1;
    let mut targets: Vec<Target> = Vec::new();
    for word in &args.hosts {
        let (name, ssh) = match word.split_once('=') {
            Some((name, ssh)) => (name, Some(ssh.to_owned())),
            None => (word.as_str(), None),
        };
        let name: HostName = name.parse().map_err(|e: deployd_api::ids::InvalidId| {
            usage(e.to_string(), "write hosts add web1 --ssh root@10.0.0.11, or web1=root@10.0.0.11")
        })?;
        if targets.iter().any(|t| t.name == name) {
            return Err(usage(format!("{name} stands twice"), "write each host once"));
        }
        if several && ssh.is_none() {
            let hint = format!("of several hosts each says where ssh finds it: {name}=root@ADDRESS");
            return Err(usage(format!("where is {name}?"), &hint));
        }
        if several && (args.ssh.is_some() || args.address.is_some() || args.csr.is_some()) {
            let message = "--ssh, --address and --csr are for one host".to_owned();
            return Err(usage(message, "write each host as NAME=SSH, or add those apart one by one"));
        }
        if ssh.is_some() && (args.ssh.is_some() || args.csr.is_some()) {
            return Err(usage(format!("{word} and --ssh or --csr say two things"), "write one of them"));
        }
        targets.push(Target { name, ssh: ssh.or_else(|| args.ssh.clone()) });
    }
    for target in &targets {
        match target.ssh.as_deref() {
            // It would be an option of ssh.
            Some(ssh) if ssh.is_empty() || ssh.starts_with('-') || ssh.contains(char::is_whitespace) => {
                return Err(usage(format!("`{ssh}` is no target of ssh"), "write root@10.0.0.11"));
            }
            None if args.address.is_none() => {
                let hint = "add --ssh root@ADDRESS; without ssh: --csr FILE --address ADDRESS";
                return Err(usage(format!("how is {} reached?", target.name), hint));
            }
            _ => {}
        }
    }
    Ok(targets)
}

/// The host of a target of ssh, when its configuration does not say another.
pub(crate) fn host_of(ssh: &str) -> &str {
    let rest = ssh.strip_prefix("ssh://").unwrap_or(ssh);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if ssh.starts_with("ssh://") { host.split([':', '/']).next().unwrap_or(host) } else { host }
}

fn usage(message: String, hint: &str) -> CtlError {
    CtlError::Usage { message, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(hosts: &[&str]) -> HostsAdd {
        HostsAdd {
            hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
            ssh: None,
            address: None,
            groups: vec![],
            labels: vec![],
            packages: vec![],
            ssh_options: vec![],
            csr: None,
        }
    }

    #[test]
    fn hosts_say_where_they_are() {
        let shown = |targets: Vec<Target>| {
            targets.iter().map(|t| format!("{}:{:?}", t.name, t.ssh)).collect::<Vec<_>>().join(" ")
        };
        let one = HostsAdd { ssh: Some("root@10.0.0.1".into()), ..args(&["web1"]) };
        assert_eq!(shown(read(&one).unwrap()), "web1:Some(\"root@10.0.0.1\")");
        let two = args(&["web1=root@a", "web2=b"]);
        assert_eq!(shown(read(&two).unwrap()), "web1:Some(\"root@a\") web2:Some(\"b\")");
        let ready = HostsAdd { address: Some("10.0.0.1".parse().unwrap()), ..args(&["web1"]) };
        assert_eq!(shown(read(&ready).unwrap()), "web1:None");
    }

    #[test]
    fn what_is_not_clear_is_asked_back() {
        let ssh = Some("root@a".to_owned());
        for (args, want) in [
            (args(&["web1"]), "how is web1 reached?"),
            (args(&["Web1=a"]), "`Web1` is not a valid host name: only a-z, 0-9 and - are allowed"),
            (args(&["web1=a", "web1=b"]), "web1 stands twice"),
            (args(&["web1=a", "web2"]), "where is web2?"),
            (args(&["web1=-oProxyCommand=x"]), "`-oProxyCommand=x` is no target of ssh"),
            (args(&["web1="]), "`` is no target of ssh"),
            (HostsAdd { ssh: ssh.clone(), ..args(&["web1=a"]) }, "web1=a and --ssh or --csr say two things"),
            (HostsAdd { ssh, ..args(&["web1=a", "web2=b"]) }, "--ssh, --address and --csr are for one host"),
        ] {
            assert_eq!(read(&args).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn the_host_of_a_target_is_found() {
        for (ssh, want) in [
            ("root@10.0.0.1", "10.0.0.1"),
            ("web1", "web1"),
            ("ssh://root@web1:2222", "web1"),
            ("a@b@c", "c"),
        ] {
            assert_eq!(host_of(ssh), want);
        }
    }
}
