//! Runs a steering program as the kernel does, over the only thing it may look at.
//!
//! Used by tests and by simulated hosts. It knows exactly the instructions that [`super`] emits:
//! anything else is an error, so that a new instruction cannot go untested.

use super::{AND, AT_MARK, Insn, JUMP_EQUAL, LOAD_WORD, RETURN, RETURN_A, SHIFT_RIGHT};

/// What a program can see of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The client socket's `SO_MARK`; 0 for everyone but the agent.
    pub mark: u32,
}

/// Why a program is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProgram {
    /// It ran past its last instruction.
    #[error("ran past the end at instruction {at}")]
    NoReturn {
        /// Where.
        at: usize,
    },
    /// An instruction that steering does not use.
    #[error("unknown instruction {code:#x} at {at}")]
    Unknown {
        /// The operation.
        code: u16,
        /// Where.
        at: usize,
    },
    /// A word that steering does not look at.
    #[error("unknown offset {offset:#x} at {at}")]
    Offset {
        /// The offset.
        offset: u32,
        /// Where.
        at: usize,
    },
}

/// The index that the program returns for this connection.
pub fn run(program: &[Insn], connection: Connection) -> Result<u32, InvalidProgram> {
    let mut at = 0;
    let mut a = 0_u32;
    loop {
        let insn = program.get(at).ok_or(InvalidProgram::NoReturn { at })?;
        let mut jump = |holds: bool| at += usize::from(if holds { insn.jt } else { insn.jf });
        match insn.code {
            LOAD_WORD if insn.k == AT_MARK => a = connection.mark,
            LOAD_WORD => return Err(InvalidProgram::Offset { offset: insn.k, at }),
            AND => a &= insn.k,
            SHIFT_RIGHT => a = a.checked_shr(insn.k).unwrap_or(0),
            JUMP_EQUAL => jump(a == insn.k),
            RETURN => return Ok(insn.k),
            RETURN_A => return Ok(a),
            code => return Err(InvalidProgram::Unknown { code, at }),
        }
        at += 1;
    }
}
