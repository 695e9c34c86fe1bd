//! Entries as journalctl of systemd 252 prints them, and the commands that ask for them.

use super::*;

fn line(extra: &str) -> String {
    format!(
        r#"{{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1763709719123456","__MONOTONIC_TIMESTAMP":"1","_BOOT_ID":"b"{extra}}}"#
    )
}

fn parse(extra: &str) -> Option<LogLine> {
    Entry::parse(line(extra).as_bytes()).map(LogLine::from)
}

const WEB: &str = r#","_SYSTEMD_UNIT":"deployd-my_shop-web-v42@1.service","_PID":"812""#;

#[test]
fn a_line_of_an_instance_has_its_label_and_name() {
    let found = parse(&format!(r#"{WEB},"PRIORITY":"4","MESSAGE":"slow query""#)).unwrap();
    assert_eq!(found.at, Timestamp(1_763_709_719_123));
    assert_eq!((found.label.unwrap().number(), found.instance.as_str()), (42, "web@1"));
    assert_eq!((found.level, found.message.as_str()), (4, "slow query"));
}

#[test]
fn messages_may_be_bytes_repeated_or_missing() {
    for (message, want) in [
        (r#","MESSAGE":[104,105,255,27]"#, "hi\u{fffd}\u{1b}"),
        (r#","MESSAGE":["one","two"]"#, "one\ntwo"),
        (r#","MESSAGE":["one",[116,119,111]]"#, "one\ntwo"),
        (r#","MESSAGE":null"#, ""),
        ("", ""),
    ] {
        let found = parse(&format!("{WEB}{message}")).unwrap();
        assert_eq!((found.message.as_str(), found.level), (want, 6), "{message}");
    }
}

#[test]
fn unit_names_tell_the_instance() {
    for (unit, label, instance) in [
        ("deployd-shop-my_worker-v7.3@12.service", 7, "my-worker@12"),
        ("deployd-shop-http_proxy_-v7@1.service", 7, "http proxy@1"),
        ("deployd-shop-http_proxy-v7@1.service", 7, "http-proxy@1"),
        ("deployd-shop-migrate-v7.2.service", 7, "migrate"),
        ("deployd-shop-migrate-v7@1.service", 7, "migrate@1"),
    ] {
        let found = parse(&format!(r#","_SYSTEMD_UNIT":"{unit}""#)).unwrap();
        assert_eq!((found.label.unwrap().number(), found.instance.as_str()), (label, instance), "{unit}");
    }
    for unit in [
        "nginx.service",
        "deployd.service",
        "deployd-fd@deployd-shop-http-v1.service",
        "deployd-a-b-v1.socket",
        "deployd-a-b-c-v1@1.service",
        "deployd-a-b-x1@1.service",
        "deployd-a-b-v1@x.service",
        "deployd-a-b-v1@.service",
        "deployd-a-b-v1.service",
        "deployd-check-web-0.service",
    ] {
        assert!(parse(&format!(r#","_SYSTEMD_UNIT":"{unit}""#)).is_none(), "{unit}");
    }
}

#[test]
fn only_pid_1_may_speak_about_another_unit() {
    let about = r#","UNIT":"deployd-shop-web-v1@1.service","MESSAGE":"Failed with result 'exit-code'.""#;
    let by = |pid: u32, unit: &str| parse(&format!(r#"{about},"_PID":"{pid}","_SYSTEMD_UNIT":"{unit}""#));
    assert_eq!(by(1, "init.scope").unwrap().instance, "web@1");
    assert!(by(2, "evil.service").is_none());
    assert_eq!(by(2, "deployd-other-job-v3@2.service").unwrap().instance, "job@2");
}

#[test]
fn rubbish_is_no_entry() {
    for text in ["", "{", "[]", "null", "-- No entries --", r#"{"MESSAGE":"x"}"#] {
        assert!(Entry::parse(text.as_bytes()).is_none(), "{text}");
    }
}

#[test]
fn the_cursor_is_that_of_the_last_entry() {
    let text = format!("{}\n{}\n", line("").replace("i=2", "i=1"), line(""));
    assert_eq!(entry::cursor(text.as_bytes()).unwrap(), "s=1;i=2");
    assert_eq!(entry::cursor(b""), None);
}

fn filter() -> LogFilter {
    LogFilter::of("my-shop".parse().unwrap())
}

#[test]
fn patterns_name_exactly_the_units_asked_for() {
    assert_eq!(filter().patterns(), ["deployd-my_shop-*-*@*.service", "deployd-my_shop-migrate-*.service"]);
    let migrations =
        LogFilter { label: Label::new(4), process: Some("migrate".parse().unwrap()), ..filter() };
    assert_eq!(
        migrations.patterns()[2..],
        ["v4", "v4.*"].map(|tag| format!("deployd-my_shop-migrate-{tag}.service"))
    );
    let filter = LogFilter {
        label: Label::new(4),
        process: Some("a-b".parse().unwrap()),
        instance: Some(2),
        ..filter()
    };
    assert_eq!(filter.patterns(), ["deployd-my_shop-a_b-v4@2.service", "deployd-my_shop-a_b-v4.*@2.service"]);
}

#[test]
fn each_part_of_a_filter_leaves_out_the_others() {
    let entry = Entry::parse(line(&format!(r#"{WEB},"PRIORITY":"4""#)).as_bytes()).unwrap();
    let at = entry.at;
    let set = |change: fn(&mut LogFilter)| {
        let mut changed = filter();
        change(&mut changed);
        changed.admits(&entry)
    };
    assert!(filter().admits(&entry));
    assert!(!set(|f| f.app = "shop".parse().unwrap()));
    assert!(set(|f| f.label = Label::new(42)) && !set(|f| f.label = Label::new(4)));
    assert!(set(|f| f.process = "web".parse().ok()) && !set(|f| f.process = "job".parse().ok()));
    assert!(set(|f| f.instance = Some(1)) && !set(|f| f.instance = Some(2)));
    assert!(set(|f| f.max_level = Some(4)) && !set(|f| f.max_level = Some(3)));
    assert!(LogFilter { since: Some(at), ..filter() }.admits(&entry));
    assert!(!LogFilter { since: Some(Timestamp(at.0 + 1)), ..filter() }.admits(&entry));
}

#[test]
fn commands_ask_for_what_the_filter_says() {
    let filter = LogFilter { since: Some(Timestamp(5_999)), max_level: Some(3), lines: Some(7), ..filter() };
    let words = format!("{:?}", filter.query_command());
    for word in ["\"-n\", \"7\"", "--since=@5\"", "--priority=0..3", "deployd-my_shop-*"] {
        assert!(words.contains(word), "{word}: {words}");
    }
    let words = format!("{:?}", filter.follow_command(Some("c")));
    for word in
        ["--follow", "--no-tail", "--after-cursor=c", "_SYSTEMD_SLICE=deployd-my_shop.slice", "_PID=1"]
    {
        assert!(words.contains(word), "{word}: {words}");
    }
}

#[tokio::test]
async fn a_journal_without_lines_of_the_app_gives_none() {
    let filter = LogFilter { lines: Some(5), ..LogFilter::of("no-such-app-here".parse().unwrap()) };
    assert!(query(&filter).await.unwrap().is_empty());
}
