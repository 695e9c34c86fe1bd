//! Tests of `listed`: what is read from `DEPLOYD_BIND`, and what each `bind()` then means.

use super::*;

const ANY6: [u8; 16] = [0; 16];
const LO6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LO4: [u8; 4] = [127, 0, 0, 1];

fn decision(list: &str, wanted: Address<'_>) -> Decision {
    let mut entries = [None; MOST];
    parse(list.as_bytes(), &mut entries);
    decide(&entries, &wanted)
}

#[test]
fn every_form_of_address_is_read() {
    let mut entries = [None; MOST];
    let list = b"3=[::]:8080,4=127.0.0.1:9090,5=v6only:[::1]:1,6=/run/x.sock,7=@name";
    assert_eq!(parse(list, &mut entries), 5);
    let found: Vec<_> =
        entries.iter().flatten().map(|entry| (entry.fd, entry.address, entry.families)).collect();
    assert_eq!(
        found,
        [
            (3, Address::V6(ANY6, 8080), Families::Both),
            (4, Address::V4(LO4, 9090), Families::Both),
            (5, Address::V6(LO6, 1), Families::Ipv6Only),
            (6, Address::Unix(b"/run/x.sock"), Families::Both),
            (7, Address::Unix(b"@name"), Families::Both),
        ]
    );
}

#[test]
fn nonsense_is_skipped_and_a_long_list_cut() {
    let mut entries = [None; 2];
    assert_eq!(parse(b",,x=1,-1=[::]:1,3=[::]:0,3=[::1:80,3=host:80,99999=[::]:1,=,3=", &mut entries), 0);
    assert_eq!(parse(b"3=[::]:1,4=[::]:2,5=[::]:3", &mut entries), 2);
}

#[test]
fn the_dual_stack_wildcard_takes_either_wildcard() {
    for wanted in [Address::V6(ANY6, 80), Address::V4([0; 4], 80)] {
        assert_eq!(decision("3=[::]:80", wanted), Decision::Take(0));
    }
    let mut mapped_any = [0; 16];
    mapped_any[10] = 0xff;
    mapped_any[11] = 0xff;
    assert_eq!(decision("3=[::]:80", Address::V6(mapped_any, 80)), Decision::Take(0));
}

#[test]
fn another_address_on_a_listed_port_is_refused() {
    assert_eq!(decision("3=[::]:80", Address::V4(LO4, 80)), Decision::Refuse(0));
    assert_eq!(decision("3=[::]:80", Address::V6(LO6, 80)), Decision::Refuse(0));
    assert_eq!(decision("3=0.0.0.0:80", Address::V6(ANY6, 80)), Decision::Refuse(0));
    assert_eq!(decision("3=v6only:[::]:80", Address::V4([0; 4], 80)), Decision::Refuse(0));
    assert_eq!(decision("3=127.0.0.1:80", Address::V4([0; 4], 80)), Decision::Refuse(0));
}

#[test]
fn an_exact_address_wins_over_a_refusal_on_the_same_port() {
    assert_eq!(decision("3=[::1]:80,4=127.0.0.1:80", Address::V4(LO4, 80)), Decision::Take(1));
}

#[test]
fn other_ports_and_port_zero_are_untouched() {
    assert_eq!(decision("3=[::]:80", Address::V6(ANY6, 81)), Decision::Untouched);
    assert_eq!(decision("3=[::]:80", Address::V4(LO4, 0)), Decision::Untouched);
    assert_eq!(decision("", Address::V4(LO4, 80)), Decision::Untouched);
}

#[test]
fn unix_paths_are_compared_whole() {
    assert_eq!(decision("3=/run/x.sock", Address::Unix(b"/run/x.sock")), Decision::Take(0));
    assert_eq!(decision("3=/run/x.sock", Address::Unix(b"/run/y.sock")), Decision::Untouched);
    assert_eq!(decision("3=@name", Address::Unix(b"\0name")), Decision::Take(0));
    assert_eq!(decision("3=@name", Address::Unix(b"@name")), Decision::Untouched);
}
