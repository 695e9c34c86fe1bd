//! Which verbs are shown where, and an example of each. No logic; verbs of later versions may stand here already.

/// The verbs of every day, in the order of the short help.
pub(super) const SHORT: &[&str] = &[
    "init", "push", "plan", "status", "releases", "rollback", "logs", "exec", "secrets", "scale", "hosts",
    "backup", "doctor", "help",
];

/// All verbs by what they are for.
pub(super) const GROUPS: &[(&str, &[&str])] = &[
    (
        "Deploy",
        &[
            "init", "push", "plan", "rollback", "releases", "rollout", "abort", "promote", "secrets",
            "scale", "run", "migrate", "start", "stop", "restart", "remove",
        ],
    ),
    ("Observe", &["status", "logs", "exec", "console", "doctor"]),
    ("Fleet", &["hosts", "agent", "backup"]),
    ("Admin", &["pki", "eject", "adopt", "help", "completions"]),
];

/// One example for each verb, as it is typed behind the name of the program.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    ("init", "init"),
    ("push", "push"),
    ("plan", "plan"),
    ("status", "status"),
    ("releases", "releases"),
    ("releases clear", "releases clear v44"),
    ("rollback", "rollback v42"),
    ("rollout", "rollout status"),
    ("rollout status", "rollout status"),
    ("rollout resume", "rollout resume"),
    ("rollout abort", "rollout abort"),
    ("logs", "logs -f --instance web1/web@1"),
    ("exec", "exec -- bin/shop remote"),
    ("console", "console"),
    ("run", "run -- bin/shop eval Shop.Seeds.run"),
    ("secrets", "secrets set DATABASE_URL=-"),
    ("secrets set", "secrets set DATABASE_URL=-"),
    ("secrets unset", "secrets unset DATABASE_URL"),
    ("secrets list", "secrets list"),
    ("secrets import", "secrets import .env"),
    ("secrets export", "secrets export --out shop.secrets.age"),
    ("start", "start -a shop"),
    ("stop", "stop -a shop"),
    ("restart", "restart -a shop"),
    ("abort", "abort -a shop"),
    ("remove", "remove -a shop"),
    ("hosts", "hosts list"),
    ("hosts add", "hosts add web1 --ssh root@10.0.0.11"),
    ("hosts list", "hosts list"),
    ("hosts check", "hosts check"),
    ("hosts remove", "hosts remove web1"),
    ("pki", "pki show"),
    ("pki init", "pki init"),
    ("pki issue", "pki issue ci --role deployer/shop --ttl 90d --print"),
    ("pki show", "pki show"),
    ("pki renew", "pki renew web1"),
    ("pki revoke", "pki revoke ci"),
    ("doctor", "doctor"),
    ("help", "help push"),
    ("completions", "completions bash"),
];
