//! What a file is, by its first bytes.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

use super::elf::{self, Facts};

/// Bytes that are looked at: enough for every header, and for a `#!` line (the kernel reads 256).
const HEAD_BYTES: u64 = 1024;
/// More architectures than this no universal binary has; a class file of Java, which begins with the same four
/// bytes, has a version above it there.
const UNIVERSAL_MAX: u32 = 30;

/// What a file is, when that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A program or library for Linux.
    Elf(Facts),
    /// A program for another system: `Mach-O arm64 (macOS)`.
    Foreign(String),
    /// A `#!` script: the interpreter, and with `env` also what that looks for.
    Script(Vec<String>),
}

/// What the file is; `None` when it is nothing that runs, or cannot be read.
pub(super) fn read(path: &Path) -> Option<Kind> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let head = read_head(&mut file)?;
    if head.starts_with(b"\x7fELF") {
        return elf::read(file).map(Kind::Elf);
    }
    foreign(&head).map(Kind::Foreign).or_else(|| script(&head).map(Kind::Script))
}

fn read_head(file: &mut File) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    // Most files of an artifact are nothing of interest: four bytes say so.
    file.take(4).read_to_end(&mut head).ok()?;
    let first = head.get(..2)?;
    let of_interest = first == b"#!" || first == b"MZ" || head == b"\x7fELF" || is_mach_o(&head);
    if of_interest && head != b"\x7fELF" {
        file.take(HEAD_BYTES - 4).read_to_end(&mut head).ok()?;
    }
    of_interest.then_some(head)
}

fn is_mach_o(head: &[u8]) -> bool {
    let magic = [
        b"\xcf\xfa\xed\xfe",
        b"\xce\xfa\xed\xfe",
        b"\xfe\xed\xfa\xcf",
        b"\xfe\xed\xfa\xce",
        b"\xca\xfe\xba\xbe",
    ];
    magic.iter().any(|magic| head.starts_with(*magic))
}

/// A program of another system, in words.
pub(super) fn foreign(head: &[u8]) -> Option<String> {
    let four = |at: usize| head.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
    if head.starts_with(b"\xca\xfe\xba\xbe") {
        let count = u32::from_be_bytes(four(4)?);
        return (1..=UNIVERSAL_MAX).contains(&count).then(|| "Mach-O universal (macOS)".to_owned());
    }
    if is_mach_o(head) {
        let cpu = if head[0] == 0xfe { u32::from_be_bytes(four(4)?) } else { u32::from_le_bytes(four(4)?) };
        let arch = match cpu {
            0x0100_000c => "arm64",
            0x0100_0007 => "x86_64",
            7 => "i386",
            _ => "of another processor",
        };
        return Some(format!("Mach-O {arch} (macOS)"));
    }
    if head.starts_with(b"MZ") {
        let at = usize::try_from(u32::from_le_bytes(four(0x3c)?)).ok()?;
        if &four(at)? != b"PE\0\0" {
            return None;
        }
        let arch = match u16::from_le_bytes(head.get(at + 4..at + 6)?.try_into().ok()?) {
            0x8664 => "x86_64",
            0xaa64 => "arm64",
            0x014c => "i386",
            _ => "of another processor",
        };
        return Some(format!("PE {arch} (Windows)"));
    }
    None
}

/// `#!/usr/bin/env -S python3 -u` → `/usr/bin/env`, `python3`.
pub(super) fn script(head: &[u8]) -> Option<Vec<String>> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let interpreter = words.next()?.to_owned();
    let looked_for = interpreter
        .ends_with("/env")
        .then(|| words.find(|word| !word.starts_with('-') && !word.contains('=')))
        .flatten();
    Some(std::iter::once(interpreter).chain(looked_for.map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_other_systems_are_named() {
        let pe = |machine: u16| {
            let mut head = vec![0; 0x90];
            head[..2].copy_from_slice(b"MZ");
            head[0x3c] = 0x80;
            head[0x80..0x84].copy_from_slice(b"PE\0\0");
            head[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
            head
        };
        for (head, want) in [
            (b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01".to_vec(), Some("Mach-O arm64 (macOS)")),
            (b"\xcf\xfa\xed\xfe\x07\x00\x00\x01".to_vec(), Some("Mach-O x86_64 (macOS)")),
            (b"\xfe\xed\xfa\xce\x00\x00\x00\x07".to_vec(), Some("Mach-O i386 (macOS)")),
            (b"\xca\xfe\xba\xbe\x00\x00\x00\x02".to_vec(), Some("Mach-O universal (macOS)")),
            // A class file of Java.
            (b"\xca\xfe\xba\xbe\x00\x00\x00\x3d".to_vec(), None),
            (pe(0x8664), Some("PE x86_64 (Windows)")),
            (pe(0xaa64), Some("PE arm64 (Windows)")),
            (b"MZ, a text".to_vec(), None),
            (b"#!/bin/sh\n".to_vec(), None),
            (b"\xcf\xfa\xed\xfe".to_vec(), None),
            (Vec::new(), None),
        ] {
            assert_eq!(foreign(&head).as_deref(), want, "{head:x?}");
        }
    }

    #[test]
    fn the_first_line_of_a_script() {
        for (head, want) in [
            ("#!/bin/sh\nset -e", Some("/bin/sh")),
            ("#! /bin/sh -e\n", Some("/bin/sh")),
            ("#!/usr/bin/env python3\n", Some("/usr/bin/env python3")),
            ("#!/usr/bin/env -S A=1 node --trace\n", Some("/usr/bin/env node")),
            ("#!/usr/bin/env", Some("/usr/bin/env")),
            ("#!\n", None),
            ("# no script", None),
        ] {
            assert_eq!(script(head.as_bytes()).map(|words| words.join(" ")).as_deref(), want, "{head}");
        }
    }
}
