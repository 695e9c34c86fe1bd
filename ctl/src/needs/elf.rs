//! What an ELF file asks for: its architecture, its interpreter, the version of glibc, libraries.
//!
//! Only headers and the tables that they name are read, and never more than a bound of any file, however it
//! lies about its sizes. What cannot be understood is left out.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use object::elf::{DT_NEEDED, DT_SONAME, FileHeader32, FileHeader64, VER_FLG_WEAK};
use object::read::elf::{FileHeader, ProgramHeader as _};
use object::read::{ReadCache, ReadRef};
use object::{Endianness, FileKind, elf};

/// Bytes that are read of one file at most.
const READ_MAX: u64 = 16 << 20;
/// Libraries that are taken from one file at most.
const NEEDED_MAX: usize = 1000;

/// What an ELF file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Facts {
    /// As `uname -m` has it.
    pub(super) arch: String,
    pub(super) interpreter: Option<String>,
    pub(super) soname: Option<String>,
    /// The highest version of glibc that it cannot do without: `[2, 38]`.
    pub(super) glibc: Option<Vec<u32>>,
    pub(super) needed: Vec<String>,
}

/// The facts of a file; `None` unless it is a program or a library.
pub(super) fn read(file: File) -> Option<Facts> {
    let cache = ReadCache::new(Bounded { file, left: READ_MAX });
    let data = &cache;
    match FileKind::parse(data).ok()? {
        FileKind::Elf32 => read_class::<FileHeader32<Endianness>, _>(data),
        FileKind::Elf64 => read_class::<FileHeader64<Endianness>, _>(data),
        _ => None,
    }
}

fn read_class<'data, Elf, R>(data: R) -> Option<Facts>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    if ![elf::ET_EXEC, elf::ET_DYN].contains(&header.e_type(endian)) {
        return None;
    }
    let arch = arch(header.e_machine(endian), header.is_class_64(), header.is_little_endian());
    let mut facts = Facts { arch, ..Facts::default() };
    // What was read before something is wrong is kept.
    let _ = read_tables(header, endian, data, &mut facts);
    Some(facts)
}

fn read_tables<'data, Elf, R>(
    header: &Elf,
    endian: Endianness,
    data: R,
    facts: &mut Facts,
) -> object::read::Result<()>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    for segment in header.program_headers(endian, data)? {
        if let Some(interpreter) = segment.interpreter(endian, data)? {
            facts.interpreter = Some(text(interpreter));
        }
    }
    let sections = header.sections(endian, data)?;
    let dynamic = sections.dynamic_table(endian, data)?;
    for entry in &dynamic {
        match entry.tag {
            DT_NEEDED if facts.needed.len() < NEEDED_MAX => facts.needed.push(text(dynamic.string(entry)?)),
            DT_SONAME => facts.soname = Some(text(dynamic.string(entry)?)),
            _ => {}
        }
    }
    let Some((mut libraries, link)) = sections.gnu_verneed(endian, data)? else { return Ok(()) };
    let strings = sections.strings(endian, data, link)?;
    while let Some((_, mut versions)) = libraries.next()? {
        while let Some(version) = versions.next()? {
            if version.vna_flags.get(endian) & VER_FLG_WEAK == 0 {
                facts.glibc = facts.glibc.take().max(glibc(&text(version.name(endian, strings)?)));
            }
        }
    }
    Ok(())
}

/// `GLIBC_2.38` → `[2, 38]`; nothing for `GLIBC_PRIVATE`.
fn glibc(version: &str) -> Option<Vec<u32>> {
    let numbers = version.strip_prefix("GLIBC_")?.split('.').map(|n| n.parse().ok());
    numbers.collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The architecture as `uname -m` has it on such a host.
fn arch(machine: u16, is_64: bool, is_little: bool) -> String {
    match (machine, is_64, is_little) {
        (elf::EM_X86_64, true, _) => "x86_64".to_owned(),
        (elf::EM_X86_64, false, _) => "x32".to_owned(),
        (elf::EM_386, ..) => "i386".to_owned(),
        (elf::EM_AARCH64, ..) => "aarch64".to_owned(),
        (elf::EM_ARM, ..) => "arm".to_owned(),
        (elf::EM_RISCV, true, _) => "riscv64".to_owned(),
        (elf::EM_PPC64, _, true) => "ppc64le".to_owned(),
        (elf::EM_PPC64, _, false) => "ppc64".to_owned(),
        (elf::EM_S390, true, _) => "s390x".to_owned(),
        (elf::EM_LOONGARCH, true, _) => "loongarch64".to_owned(),
        _ => format!("machine {machine}"),
    }
}

/// A file of which no more than so much is read.
#[derive(Debug)]
struct Bounded {
    file: File,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.len() as u64 > self.left {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let read = self.file.read(buffer)?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_glibc_are_compared_by_number() {
        assert!(glibc("GLIBC_2.38") > glibc("GLIBC_2.4"));
        assert!(glibc("GLIBC_2.2.5") > glibc("GLIBC_2.2"));
        for none in ["GLIBC_PRIVATE", "GLIBC_ABI_DT_RELR", "GLIBCXX_3.4", "OPENSSL_3.0.0"] {
            assert_eq!(glibc(none), None);
        }
    }

    #[test]
    fn a_program_of_this_machine() {
        let facts = read(File::open(std::fs::canonicalize("/bin/sh").unwrap()).unwrap()).unwrap();
        assert_eq!(facts.arch, std::env::consts::ARCH);
        assert!(facts.interpreter.unwrap().contains("ld-"));
        assert!(facts.needed.iter().any(|l| l.starts_with("libc.")), "{:?}", facts.needed);
        assert!(facts.glibc.unwrap() >= vec![2, 2]);
    }

    /// Headers that point anywhere, with counts of anything.
    #[test]
    fn damaged_files_are_survived_within_the_bound() {
        let whole = std::fs::read(std::fs::canonicalize("/bin/sh").unwrap()).unwrap();
        for at in 0..64 {
            for value in [0, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let mut file = tempfile::tempfile().unwrap();
                std::io::Write::write_all(&mut file, &damaged).unwrap();
                read(file);
            }
        }
        let mut cut = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut cut, &whole[..64]).unwrap();
        assert_eq!(read(cut).unwrap().needed, Vec::<String>::new());
    }
}
