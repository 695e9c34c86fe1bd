//! What a program is, before it runs: there at all, for this machine, reachable by the bind shim.
//!
//! It opens and reads files and never runs one. The push handler asks for every process of a spec; the
//! planner judges the answer ([`Program`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use deployd_core::facts::Program;

/// Interpreters of interpreters that the kernel follows, and so do we.
const SCRIPT_DEPTH: usize = 4;
/// Links followed in one path, as the kernel's `MAXSYMLINKS`.
const LINKS_MAX: usize = 40;
/// What the kernel reads of a file to recognise it (`BINPRM_BUF_SIZE`): a `#!` line is not longer.
const HEAD_BYTES: usize = 256;
/// Size of a 64-bit ELF header; the 32-bit one is shorter.
const HEADER_BYTES: usize = 64;
/// Where links of an artifact may lead on the host: programs of the system, not files of other apps.
const SYSTEM_DIRS: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt", "/nix/store", "/snap"];
/// `PT_INTERP`: the segment that names the dynamic loader.
const PT_INTERP: u32 = 3;

/// What the first word of a command is. With a `/` it stands in `tree` (absolute: on the host), bare it is
/// searched in `path_env`.
pub fn inspect(tree: &Path, word: &str, path_env: &str) -> Program {
    let mut word = word.to_owned();
    let mut asked_by = None;
    for _ in 0..=SCRIPT_DEPTH {
        let named = |what: String| match &asked_by {
            Some(script) => format!("{what} (the interpreter of {script})"),
            None => what,
        };
        let file = match find(tree, &word, path_env) {
            Ok(file) => file,
            Err(NotFound::Nowhere) => return Program::Missing { path: named(word) },
            Err(NotFound::Outside(link)) => {
                return Program::Missing { path: named(format!("{word} (the link {link} leads out)")) };
            }
        };
        let shown = shown(tree, &file);
        match look(&file) {
            Ok(Kind::Elf(Linkage::Dynamic)) => return Program::Dynamic,
            Ok(Kind::Elf(Linkage::Static)) => return Program::Static { path: named(shown) },
            Ok(Kind::Elf(Linkage::Foreign(machine))) => {
                return Program::ForeignArchitecture { path: named(shown), machine };
            }
            Ok(Kind::Script(interpreter)) => {
                word = interpreter;
                asked_by = Some(shown);
            }
            Ok(Kind::Locked) => return Program::NotExecutable { path: named(shown) },
            Ok(Kind::Neither) => {
                let path = named(format!("{shown} (neither an ELF file nor a #! script)"));
                return Program::NotExecutable { path };
            }
            Err(error) => return Program::Missing { path: named(format!("{shown} ({error})")) },
        }
    }
    Program::NotExecutable { path: format!("{word} (more than {SCRIPT_DEPTH} interpreters of scripts)") }
}

/// A program of the host, as PID 1 would find it by its name alone.
pub fn on_path(name: &str, path_env: &str) -> Option<PathBuf> {
    let found = find(Path::new("/"), name, path_env).ok()?;
    found.metadata().is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0).then_some(found)
}

/// A path as the user knows it: inside the artifact without where that stands.
fn shown(tree: &Path, file: &Path) -> String {
    file.strip_prefix(tree).unwrap_or(file).display().to_string()
}

enum NotFound {
    Nowhere,
    /// This link of the artifact leads to a place that is neither in it nor the system's.
    Outside(String),
}

fn find(tree: &Path, word: &str, path_env: &str) -> Result<PathBuf, NotFound> {
    if word.is_empty() {
        return Err(NotFound::Nowhere);
    }
    if word.starts_with('/') {
        return on_host(Path::new(word));
    }
    if word.contains('/') {
        return in_tree(tree, Path::new(word));
    }
    let candidates =
        path_env.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join(word));
    // As execvp: what has no execute bit is passed over, and reported only when nothing better comes.
    let mut locked = None;
    for candidate in candidates {
        match on_host(&candidate) {
            Ok(file) if file.metadata().is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0) => {
                return Ok(file);
            }
            Ok(file) if file.is_file() => locked = locked.or(Some(file)),
            Ok(_) | Err(_) => {}
        }
    }
    locked.ok_or(NotFound::Nowhere)
}

fn on_host(path: &Path) -> Result<PathBuf, NotFound> {
    path.canonicalize().map_err(|_| NotFound::Nowhere)
}

/// Follows a path below `tree` link by link, so that none leads out of it unseen.
fn in_tree(tree: &Path, path: &Path) -> Result<PathBuf, NotFound> {
    let mut inside = PathBuf::new();
    let mut todo: Vec<String> = reversed(path);
    let mut links = 0;
    let mut last_link = String::new();
    while let Some(part) = todo.pop() {
        if part == ".." {
            if !inside.pop() {
                return Err(if links > 0 { NotFound::Outside(last_link) } else { NotFound::Nowhere });
            }
            continue;
        }
        inside.push(&part);
        let full = tree.join(&inside);
        let meta = full.symlink_metadata().map_err(|_| NotFound::Nowhere)?;
        if !meta.is_symlink() {
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(NotFound::Nowhere);
        }
        let target = full.read_link().map_err(|_| NotFound::Nowhere)?;
        last_link = inside.display().to_string();
        inside.pop();
        if target.is_absolute() {
            // A virtualenv's `bin/python3 -> /usr/bin/python3`: the rest of the path continues there.
            let mut file = target;
            file.extend(todo.iter().rev());
            let file = on_host(&file)?;
            let system = SYSTEM_DIRS.iter().any(|dir| file.starts_with(dir));
            return if system { Ok(file) } else { Err(NotFound::Outside(last_link)) };
        }
        todo.extend(reversed(&target));
    }
    Ok(tree.join(inside))
}

fn reversed(path: &Path) -> Vec<String> {
    let part = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".to_owned()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

enum Kind {
    Elf(Linkage),
    /// The interpreter, as its `#!` line names it.
    Script(String),
    /// No execute bit, or not a file.
    Locked,
    Neither,
}

#[derive(Debug, PartialEq, Eq)]
enum Linkage {
    Dynamic,
    Static,
    Foreign(String),
}

fn look(path: &Path) -> io::Result<Kind> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Ok(Kind::Locked);
    }
    let head = read_at(&file, 0, HEAD_BYTES)?;
    if let Some(interpreter) = interpreter_of(&head) {
        return Ok(Kind::Script(interpreter));
    }
    let Some(header) = Header::parse(&head) else {
        return Ok(Kind::Neither);
    };
    if let Some(machine) = header.foreign() {
        return Ok(Kind::Elf(Linkage::Foreign(machine)));
    }
    let table = read_at(&file, header.table_at, header.table_bytes())?;
    Ok(header.linkage(&table).map_or(Kind::Neither, Kind::Elf))
}

/// Up to `len` bytes from `offset` on; fewer where the file ends.
fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The program that a `#!` line stands for; that of `env` is the one it runs.
fn interpreter_of(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let interpreter = words.next()?;
    if Path::new(interpreter).file_name().is_none_or(|name| name != "env") {
        return Some(interpreter.to_owned());
    }
    // Options that take no value, `-S` alone or with its first word, and assignments come before the program.
    let program = words
        .map(|w| w.strip_prefix("--split-string=").or_else(|| w.strip_prefix("-S")).unwrap_or(w))
        .find(|w| !w.is_empty() && !w.starts_with('-') && !w.contains('='));
    Some(program.unwrap_or(interpreter).to_owned())
}

/// What an ELF header says that we need.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    machine: u16,
    bits: u8,
    little: bool,
    table_at: u64,
    entry_bytes: u16,
    entries: u16,
}

impl Header {
    fn parse(head: &[u8]) -> Option<Self> {
        let ident = head.strip_prefix(b"\x7fELF")?;
        let (bits, at_table, at_sizes) = match ident.first()? {
            1 => (32, 0x1C, 0x2A),
            2 => (64, 0x20, 0x36),
            _ => return None,
        };
        let little = match ident.get(1)? {
            1 => true,
            2 => false,
            _ => return None,
        };
        let number = |at: usize, len: usize| number(head.get(at..at + len)?, little);
        Some(Self {
            machine: number(0x12, 2)? as u16,
            bits,
            little,
            table_at: number(at_table, usize::from(bits) / 8)?,
            entry_bytes: number(at_sizes, 2)? as u16,
            entries: number(at_sizes + 2, 2)? as u16,
        })
    }

    fn table_bytes(&self) -> usize {
        usize::from(self.entry_bytes) * usize::from(self.entries)
    }

    /// Whether the program headers name a dynamic loader: a static-pie has a dynamic section, but not that.
    /// `None` when the table is cut off or empty, so that the file is no program.
    fn linkage(&self, table: &[u8]) -> Option<Linkage> {
        if self.entries == 0 || self.entry_bytes < 4 || table.len() < self.table_bytes() {
            return None;
        }
        let mut types =
            table.chunks(usize::from(self.entry_bytes)).map(|entry| number(&entry[..4], self.little));
        let interpreted = types.any(|t| t == Some(u64::from(PT_INTERP)));
        Some(if interpreted { Linkage::Dynamic } else { Linkage::Static })
    }

    /// The machine in words, when it is not ours.
    fn foreign(&self) -> Option<String> {
        let name = match (self.machine, self.bits) {
            (3 | 6, _) => "x86".to_owned(),
            (8, _) => "mips".to_owned(),
            (21, _) => "powerpc64".to_owned(),
            (22, _) => "s390x".to_owned(),
            (40, _) => "arm".to_owned(),
            (62, 64) => "x86_64".to_owned(),
            (62, _) => "x86_64 with 32-bit pointers".to_owned(),
            (183, 64) => "aarch64".to_owned(),
            (243, 64) => "riscv64".to_owned(),
            (258, _) => "loongarch64".to_owned(),
            (other, bits) => format!("machine {other}, {bits} bits"),
        };
        let ours = name == std::env::consts::ARCH && self.little == cfg!(target_endian = "little");
        (!ours).then_some(name)
    }
}

fn number(bytes: &[u8], little: bool) -> Option<u64> {
    let fold = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
    (bytes.len() <= 8)
        .then(|| if little { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) })
}

const _: () = assert!(HEAD_BYTES >= HEADER_BYTES);

#[cfg(test)]
mod tests;
