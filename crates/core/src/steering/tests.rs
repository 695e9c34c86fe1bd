//! Every program, for every class of mark.

use super::interpret::{Connection, run};
use super::*;

const PREFIX: MarkPrefix = MarkPrefix::DEFAULT;

/// Marks that must not steer: none, wrong prefixes next to the right one, a prefix in the wrong half.
const FOREIGN_MARKS: [u32; 7] = [0, 1, 0x4450, 0x444f_0001, 0x4451_0001, 0xffff_ffff, 0x8450_0000];

fn to(program: &[Insn], mark: u32) -> u32 {
    run(program, Connection { mark }).unwrap()
}

#[test]
fn a_steering_mark_reaches_its_member_whoever_has_the_traffic() {
    for live in 0..=255 {
        let program = only(PREFIX, live);
        for index in 0..=255 {
            assert_eq!(to(&program, PREFIX.mark(index)), u32::from(index));
        }
    }
}

#[test]
fn only_sends_everything_else_to_one_member() {
    for index in 0..=255 {
        let program = only(PREFIX, index);
        for mark in FOREIGN_MARKS {
            assert_eq!(to(&program, mark), u32::from(index));
        }
    }
}

#[test]
fn another_prefix_steers_its_own_marks_and_no_others() {
    let other = MarkPrefix(0x0001);
    let program = only(other, 7);
    assert_eq!(to(&program, other.mark(3)), 3);
    assert_eq!(to(&program, PREFIX.mark(3)), 7);
}

#[test]
fn programs_stay_far_below_the_kernels_limit() {
    assert!(only(PREFIX, 255).len() <= 32, "BPF_MAXINSNS is 4096; ours have a dozen");
}
