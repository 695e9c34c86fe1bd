//! Classic BPF programs that decide which member of a reuseport group gets a new connection.
//!
//! Pure data: this module computes programs, the agent attaches them (`SO_ATTACH_REUSEPORT_CBPF`) and
//! decides nothing. Every program has the same two parts: a *mark block*, so that a probe whose socket
//! carries `prefix << 16 | index` reaches that member whoever has the traffic, then who gets all other
//! connections. It must never return an index that no member has: the kernel then falls back to a hash
//! over all members, warm and unserved ones alike.
//!
//! [`group`] is the model of which member has which index, [`interpret`] runs a program as the kernel
//! does; tests compare both with real sockets.

pub mod group;
pub mod interpret;

#[cfg(test)]
mod tests;

/// `A = packet or ancillary word at k`.
pub const LOAD_WORD: u16 = 0x20;
/// `A = A & k`.
pub const AND: u16 = 0x54;
/// `A = A >> k`.
pub const SHIFT_RIGHT: u16 = 0x74;
/// `pc += if A == k { jt } else { jf }`.
pub const JUMP_EQUAL: u16 = 0x15;
/// Return `k`.
pub const RETURN: u16 = 0x06;
/// Return `A`.
pub const RETURN_A: u16 = 0x16;

/// Ancillary offset of the socket mark (`SKF_AD_OFF + SKF_AD_MARK`).
pub const AT_MARK: u32 = 0xFFFF_F014;

/// One instruction of a classic BPF program, as `struct sock_filter` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a jump's condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl Insn {
    const fn new(code: u16, k: u32) -> Self {
        Self { code, jt: 0, jf: 0, k }
    }

    const fn jump(code: u16, jt: u8, jf: u8, k: u32) -> Self {
        Self { code, jt, jf, k }
    }
}

/// The upper half of the marks that steer. Configurable, because a host may use marks of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkPrefix(pub u16);

impl MarkPrefix {
    /// `DP`: no well-known program uses marks that begin so.
    pub const DEFAULT: Self = Self(0x4450);

    /// The mark that reaches the member with this index.
    pub const fn mark(self, index: u8) -> u32 {
        (self.0 as u32) << 16 | index as u32
    }
}

impl Default for MarkPrefix {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A program that sends every unmarked connection to one member.
pub fn only(prefix: MarkPrefix, index: u8) -> Vec<Insn> {
    let mut program = mark_block(prefix);
    program.push(Insn::new(RETURN, u32::from(index)));
    program
}

/// `mark >> 16 == prefix`: return `mark & 0xff`; else fall through.
fn mark_block(prefix: MarkPrefix) -> Vec<Insn> {
    vec![
        Insn::new(LOAD_WORD, AT_MARK),
        Insn::new(SHIFT_RIGHT, 16),
        Insn::jump(JUMP_EQUAL, 0, 3, u32::from(prefix.0)),
        Insn::new(LOAD_WORD, AT_MARK),
        Insn::new(AND, 0xff),
        Insn::new(RETURN_A, 0),
    ]
}
