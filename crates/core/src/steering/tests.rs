//! Every program, for every class of mark and every residue of the random word.

use super::interpret::{Connection, run};
use super::*;

const PREFIX: MarkPrefix = MarkPrefix::DEFAULT;

/// Marks that must not steer: none, wrong prefixes next to the right one, a prefix in the wrong half.
const FOREIGN_MARKS: [u32; 7] = [0, 1, 0x4450, 0x444f_0001, 0x4451_0001, 0xffff_ffff, 0x8450_0000];

fn randoms() -> impl Iterator<Item = u32> {
    (0..200).chain([u32::MAX, u32::MAX - 1, u32::MAX / 2, 1 << 31])
}

fn to(program: &[Insn], mark: u32, random: u32) -> u32 {
    run(program, Connection { mark, random }).unwrap()
}

fn programs() -> Vec<Vec<Insn>> {
    let mut all: Vec<_> = (0..=255).map(|i| only(PREFIX, i)).collect();
    for percent in 0..=100 {
        let pair = [Weight { index: 0, percent: 100 - percent }, Weight { index: 1, percent }];
        all.push(weights(PREFIX, &pair).unwrap());
    }
    all
}

#[test]
fn a_steering_mark_reaches_its_member_whatever_the_split() {
    for program in programs() {
        for index in 0..=255 {
            for random in [0, 1, 99, 100, u32::MAX] {
                assert_eq!(to(&program, PREFIX.mark(index), random), u32::from(index));
            }
        }
    }
}

#[test]
fn only_sends_everything_else_to_one_member() {
    for index in 0..=255 {
        let program = only(PREFIX, index);
        for mark in FOREIGN_MARKS {
            for random in randoms() {
                assert_eq!(to(&program, mark, random), u32::from(index));
            }
        }
    }
}

#[test]
fn weights_give_each_member_exactly_its_residues() {
    for percent in 0..=100_u8 {
        let pair = [Weight { index: 0, percent: 100 - percent }, Weight { index: 1, percent }];
        let program = weights(PREFIX, &pair).unwrap();
        for mark in FOREIGN_MARKS {
            let second = (0..100).filter(|r| to(&program, mark, *r) == 1).count();
            assert_eq!(second, usize::from(percent));
            for random in randoms() {
                let wanted = u32::from(random % 100 >= u32::from(100 - percent));
                assert_eq!(to(&program, mark, random), wanted, "percent {percent}, random {random}");
            }
        }
    }
}

#[test]
fn a_weight_of_zero_never_gets_a_connection_wherever_it_stands() {
    for zero in 0..3_u8 {
        let three: Vec<Weight> =
            (0..3).map(|index| Weight { index, percent: if index == zero { 0 } else { 50 } }).collect();
        let program = weights(PREFIX, &three).unwrap();
        assert!(randoms().all(|r| to(&program, 0, r) != u32::from(zero)));
    }
}

#[test]
fn another_prefix_steers_its_own_marks_and_no_others() {
    let other = MarkPrefix(0x0001);
    let program = only(other, 7);
    assert_eq!(to(&program, other.mark(3), 0), 3);
    assert_eq!(to(&program, PREFIX.mark(3), 0), 7);
}

#[test]
fn weights_that_cannot_be_are_refused() {
    let of = |pairs: &[(u8, u8)]| {
        let list: Vec<_> = pairs.iter().map(|&(index, percent)| Weight { index, percent }).collect();
        weights(PREFIX, &list)
    };
    assert_eq!(of(&[]), Err(SteeringError::Sum { sum: 0 }));
    assert_eq!(of(&[(0, 50), (1, 49)]), Err(SteeringError::Sum { sum: 99 }));
    assert_eq!(of(&[(0, 200), (1, 255)]), Err(SteeringError::Sum { sum: 455 }));
    assert_eq!(of(&[(1, 50), (1, 50)]), Err(SteeringError::Twice { index: 1 }));
}

#[test]
fn programs_stay_far_below_the_kernels_limit() {
    assert!(programs().iter().all(|p| p.len() <= 32), "BPF_MAXINSNS is 4096; ours have a dozen");
}
