//! A tar file into a folder that it cannot leave: no absolute path, no `..`, nothing written through a link, no
//! devices, and no more than the disk has room for. Called on a blocking thread.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::manifest::ENTRIES_MAX;
use tar::{Archive, Entry, EntryType};

use crate::error::CtlError;
use crate::human;

/// How a name of a tar file may end.
const ENDINGS: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.zstd"];
/// Part of the free disk that stays free: one of so many.
const FREE_SHARE: u64 = 20;
/// Largest window of a zstd stream, as a power of two.
const WINDOW_LOG_MAX: u32 = 27;

/// Whether the name is one of a tar file.
pub(super) fn is_tar(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Why a tar file is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("{path:?} in it {reason}")]
    Refused { path: String, reason: &'static str },
    #[error("it holds more than {} and the disk has no room for more", human::size(*room))]
    TooLarge { room: u64 },
    #[error("it holds more than {ENTRIES_MAX} entries")]
    TooMany,
}

/// The error with what to do.
pub(super) fn explain(path: &Path, error: &UnpackError) -> CtlError {
    let (code, hint) = match error {
        UnpackError::TooLarge { .. } => {
            (ErrorCode::DiskLow, "make room in the cache folder, or name another: XDG_CACHE_HOME")
        }
        UnpackError::Read(_) => {
            (ErrorCode::ArtifactInvalid, "make the tar file again: .tar, .tar.gz or .tar.zst")
        }
        UnpackError::Refused { .. } | UnpackError::TooMany => {
            (ErrorCode::ArtifactInvalid, "an artifact is files, folders and links that stay inside it")
        }
    };
    let message = format!("{} cannot be unpacked: {error}", path.display());
    CtlError::Answer(Box::new(ErrorBody::new(code, message, hint)))
}

/// Unpacks into an empty folder.
pub(super) fn unpack(path: &Path, into: &Path) -> Result<(), UnpackError> {
    let disk = nix::sys::statvfs::statvfs(into).map_err(io::Error::from)?;
    let free = disk.blocks_available() * disk.fragment_size();
    unpack_within(path, into, free - free / FREE_SHARE)
}

fn unpack_within(path: &Path, into: &Path, room: u64) -> Result<(), UnpackError> {
    let mut archive = Archive::new(open(path)?);
    let mut target = Target { root: into.to_owned(), room, left: room };
    for (count, entry) in archive.entries()?.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(UnpackError::TooMany);
        }
        target.take(&mut entry?)?;
    }
    Ok(())
}

/// The bytes of the tar file, by what they begin with: names lie.
fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    Read::by_ref(&mut file).take(4).read_to_end(&mut magic)?;
    file.rewind()?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))));
    }
    if magic == [0x28, 0xb5, 0x2f, 0xfd] {
        let mut decoder = zstd::Decoder::new(file)?;
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(BufReader::new(file)))
}

struct Target {
    root: PathBuf,
    room: u64,
    left: u64,
}

impl Target {
    fn take(&mut self, entry: &mut Entry<'_, Box<dyn Read>>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refused = |reason| UnpackError::Refused { path: shown.clone(), reason };
        let relative = inside(&entry.path()?).ok_or_else(|| refused("leaves the folder"))?;
        if relative.as_os_str().is_empty() {
            return Ok(());
        }
        let path = self.root.join(&relative);
        self.make_parents(&relative)
            .map_err(|e| e.unwrap_or_else(|| refused("stands below a link or a file")))?;
        match kind {
            EntryType::Directory => return self.folder(&path).map_err(|()| refused("was a file before")),
            _ if path.is_dir() && !path.is_symlink() => return Err(refused("was a folder before")),
            _ => drop(fs::remove_file(&path)),
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(entry, &path),
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| refused("is a link to nothing"))?;
                if !stays_inside(&relative, &target) {
                    return Err(refused("is a link that leaves the folder"));
                }
                Ok(symlink(target, path)?)
            }
            EntryType::Link => {
                let target = entry.link_name()?.and_then(|target| inside(&target));
                let target = target.ok_or_else(|| refused("is a hard link that leaves the folder"))?;
                self.hard_link(&target, &path)?
                    .ok_or_else(|| refused("is a hard link to what is no file in it"))
            }
            EntryType::Block | EntryType::Char => Err(refused("is a device")),
            EntryType::Fifo => Err(refused("is a FIFO")),
            _ => Err(refused("is neither a file, a folder nor a link")),
        }
    }

    /// Makes the folders above; `Err(None)` when one of them is something else.
    fn make_parents(&self, relative: &Path) -> Result<(), Option<UnpackError>> {
        let mut path = self.root.clone();
        for part in relative.parent().into_iter().flat_map(Path::components) {
            path.push(part);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(None),
                Err(_) => new_folder(&path).map_err(|e| Some(e.into()))?,
            }
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "it reads as the other kinds do")]
    fn folder(&self, path: &Path) -> Result<(), ()> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(()),
            Err(_) => new_folder(path).map_err(drop),
        }
    }

    fn file(&mut self, entry: &mut Entry<'_, Box<dyn Read>>, path: &Path) -> Result<(), UnpackError> {
        let executable = entry.header().mode()? & 0o111 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // The header may say what it likes; what is written counts.
        let written = io::copy(&mut entry.take(self.left.saturating_add(1)), &mut file)?;
        self.use_up(written)
    }

    /// A copy: an artifact has no hard links. `None` when there is no such file.
    fn hard_link(&mut self, target: &Path, path: &Path) -> Result<Option<()>, UnpackError> {
        let mut from = self.root.clone();
        for part in target.components() {
            from.push(part);
            if fs::symlink_metadata(&from).map_or(true, |found| found.is_symlink()) {
                return Ok(None);
            }
        }
        let size = fs::symlink_metadata(&from).ok().filter(fs::Metadata::is_file).map(|found| found.len());
        let Some(size) = size else { return Ok(None) };
        self.use_up(size)?;
        fs::copy(&from, path)?;
        Ok(Some(()))
    }

    fn use_up(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.left = self.left.checked_sub(bytes).ok_or(UnpackError::TooLarge { room: self.room })?;
        Ok(())
    }
}

fn new_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)
}

/// The path without `.`; `None` when it is absolute or has a `..`.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(clean)
}

/// Whether the target of a link at this path is inside, by its words.
fn stays_inside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    !target.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tar::{Builder, Header};

    use super::*;

    /// An entry with any name: the builder of the crate refuses those that matter here.
    fn entry(kind: EntryType, path: &str, content: &[u8], link: &str) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn try_unpack(entries: &[Vec<u8>], room: u64) -> (tempfile::TempDir, Result<(), UnpackError>) {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("a/b/into");
        fs::create_dir_all(&into).unwrap();
        let tar = dir.path().join("x.tar");
        fs::write(&tar, [entries.concat(), vec![0; 1024]].concat()).unwrap();
        let outcome = unpack_within(&tar, &into, room);
        (dir, outcome)
    }

    #[test]
    fn every_compression_is_unpacked_with_modes_and_links() {
        let mut builder = Builder::new(Vec::new());
        let mut file = |path: &str, mode| {
            let mut header = Header::new_gnu();
            header.set_size(5);
            header.set_mode(mode);
            builder.append_data(&mut header, path, &b"hello"[..]).unwrap();
        };
        file("./bin/run", 0o100);
        file(&format!("{}deep", "long/".repeat(60)), 0o4644);
        let mut link = Header::new_gnu();
        link.set_entry_type(EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "bin/latest", "../bin/run").unwrap();
        link.set_entry_type(EntryType::Link);
        builder.append_link(&mut link, "bin/same", "bin/run").unwrap();
        let tar = builder.into_inner().unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gz, &tar).unwrap();
        let zst = zstd::encode_all(&tar[..], 1).unwrap();
        for bytes in [tar, gz.finish().unwrap(), zst] {
            let dir = tempfile::tempdir().unwrap();
            let (path, into) = (dir.path().join("any.tar"), dir.path().join("into"));
            fs::write(&path, bytes).unwrap();
            fs::create_dir(&into).unwrap();
            unpack(&path, &into).unwrap();
            let mode = |path: &str| fs::metadata(into.join(path)).unwrap().permissions().mode() & 0o7777;
            assert_eq!((mode("bin/run"), mode(&format!("{}deep", "long/".repeat(60)))), (0o755, 0o644));
            assert_eq!(fs::read_link(into.join("bin/latest")).unwrap(), Path::new("../bin/run"));
            assert_eq!(fs::read(into.join("bin/same")).unwrap(), b"hello");
            crate::artifact::scan(&into).unwrap();
        }
    }

    #[test]
    fn nothing_gets_out_of_the_folder() {
        use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
        let one = |kind, path: &str, link: &str| vec![entry(kind, path, b"", link)];
        let evil = |path: &str| entry(Regular, path, b"evil", "");
        for (entries, reason) in [
            (vec![evil("../out")], "leaves the folder"),
            (vec![evil("a/../../out")], "leaves the folder"),
            (vec![evil("/out")], "leaves the folder"),
            (one(Directory, "../../x", ""), "leaves the folder"),
            (one(Symlink, "l", "/etc"), "a link that leaves"),
            (one(Symlink, "d/l", "../../x"), "a link that leaves"),
            (one(Symlink, "l", ""), "link"),
            (one(Link, "l", "../x.tar"), "hard link that leaves"),
            (one(Link, "l", "missing"), "hard link to what is no file"),
            (one(Block, "dev", ""), "is a device"),
            (one(Char, "dev", ""), "is a device"),
            (one(Fifo, "pipe", ""), "is a FIFO"),
            // Written through links that each stay inside, by their words.
            (vec![entry(Symlink, "l", b"", "d"), evil("l/x")], "below a link"),
            (vec![evil("f"), evil("f/x")], "below a link or a file"),
            (vec![evil("f"), entry(Directory, "f", b"", "")], "was a file before"),
            (vec![evil("d/x"), evil("d")], "was a folder before"),
            (
                vec![entry(Symlink, "l", b"", "d"), entry(Link, "h", b"", "l/x")],
                "hard link to what is no file",
            ),
        ] {
            let (dir, outcome) = try_unpack(&entries, 1 << 20);
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(reason), "{error} is not {reason}");
            let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names.len(), 2, "{names:?}");
            assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_later_entry_replaces_a_link_and_does_not_follow_it() {
        let entries = [
            entry(EntryType::Regular, "real", b"real", ""),
            entry(EntryType::Symlink, "l", b"", "real"),
            entry(EntryType::Regular, "l", b"file", ""),
        ];
        let (dir, outcome) = try_unpack(&entries, 1 << 20);
        outcome.unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("a/b/into").join(name)).unwrap();
        assert_eq!((read("real").as_str(), read("l").as_str()), ("real", "file"));
    }

    #[test]
    fn the_room_is_bounded_and_what_is_cut_is_told() {
        let big = entry(EntryType::Regular, "big", &[0; 5000], "");
        let copies = [big.clone(), entry(EntryType::Link, "copy", b"", "big")];
        assert!(matches!(try_unpack(std::slice::from_ref(&big), 4999).1, Err(UnpackError::TooLarge { .. })));
        assert!(matches!(try_unpack(&copies, 9000).1, Err(UnpackError::TooLarge { .. })));
        assert!(try_unpack(&copies, 10_000).1.is_ok());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar.gz");
        for bytes in
            [&big[..3000], b"no tar at all, but long enough to be read as the header of one".as_slice()]
        {
            fs::write(&path, bytes).unwrap();
            let into = tempfile::tempdir().unwrap();
            let outcome = unpack_within(&path, into.path(), 1 << 20);
            assert!(matches!(outcome, Err(UnpackError::Read(_))), "{outcome:?}");
        }
    }

    #[test]
    fn names_of_tar_files() {
        for (name, want) in
            [("a.tar", true), ("b/a.tar.zst", true), ("a.tgz", true), ("a.zip", false), ("tar", false)]
        {
            assert_eq!(is_tar(Path::new(name)), want, "{name}");
        }
    }
}
