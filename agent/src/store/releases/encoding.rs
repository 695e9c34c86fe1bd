//! The encoding of an upload's body: as it is, or one zstd stream over all its frames, so that small files
//! share a window. Pure: bytes in, bytes out.
//!
//! What comes out is not bounded by what went in: [`super::receive`] stops at the first frame that the manifest
//! does not announce, and the sizes in the manifest have room on the disk. Memory is bounded here, by the window.

use std::fmt;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

/// Largest window that a stream may ask for, as a power of two: 8 MiB. Level 3 asks for 2 MiB.
const WINDOW_LOG_MAX: u32 = 23;
/// Bytes that are decoded at once: a block of zstd.
const PART_BYTES: usize = 128 << 10;

/// How the body of an upload is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Raw,
    /// Zstandard.
    Zstd,
}

impl Encoding {
    /// By the word of `content-encoding`; none means raw.
    pub fn of_header(word: Option<&str>) -> Option<Self> {
        match word.map(str::trim) {
            None | Some("" | "identity") => Some(Self::Raw),
            Some("zstd") => Some(Self::Zstd),
            Some(_) => None,
        }
    }
}

/// A body that is not what its encoding says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// No zstd stream, a damaged one, or one with too large a window.
    #[error("the upload is no zstd stream that can be read: {0}")]
    Garbage(String),
    /// It broke off.
    #[error("the compressed stream ended too early")]
    CutShort,
}

/// Decodes a zstd stream, however its bytes arrive.
pub(super) struct Inflate {
    decoder: Decoder<'static>,
    part: Vec<u8>,
    /// Whether bytes of a stream came that has not ended.
    open: bool,
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflate").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Inflate {
    pub(super) fn new() -> Result<Self, EncodingError> {
        let mut decoder = Decoder::new().map_err(garbage)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(garbage)?;
        Ok(Self { decoder, part: vec![0; PART_BYTES], open: false })
    }

    /// Hands what these bytes decode to, part by part, to `sink`. After an error it must not be fed again.
    pub(super) fn feed<E: From<EncodingError>>(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut input = InBuffer::around(bytes);
        loop {
            let mut output = OutBuffer::around(&mut self.part[..]);
            let before = input.pos();
            let hint = self.decoder.run(&mut input, &mut output).map_err(garbage)?;
            let written = output.pos();
            let moved = input.pos() > before || written > 0;
            self.open = if moved { hint != 0 } else { self.open };
            sink(&self.part[..written])?;
            // A full part may have more behind it, although all input is taken.
            if input.pos() == bytes.len() && written < PART_BYTES {
                return Ok(());
            }
        }
    }

    /// The body has ended: refused in the middle of a stream.
    pub(super) fn finish(&self) -> Result<(), EncodingError> {
        if self.open { Err(EncodingError::CutShort) } else { Ok(()) }
    }
}

fn garbage(e: std::io::Error) -> EncodingError {
    EncodingError::Garbage(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflate(bytes: &[u8], step: usize) -> Result<Vec<u8>, EncodingError> {
        let (mut inflate, mut out) = (Inflate::new()?, Vec::new());
        for part in bytes.chunks(step.max(1)) {
            inflate.feed(part, |bytes| {
                out.extend_from_slice(bytes);
                Ok::<(), EncodingError>(())
            })?;
        }
        inflate.finish()?;
        Ok(out)
    }

    #[test]
    fn words_of_the_header() {
        assert_eq!(Encoding::of_header(None), Some(Encoding::Raw));
        assert_eq!(Encoding::of_header(Some("identity")), Some(Encoding::Raw));
        assert_eq!(Encoding::of_header(Some(" zstd")), Some(Encoding::Zstd));
        assert_eq!(Encoding::of_header(Some("gzip")), None);
        assert_eq!(Encoding::of_header(Some("zstd, zstd")), None);
    }

    #[test]
    fn it_comes_out_as_it_went_in_however_it_arrives() {
        let content: Vec<u8> = (0..700_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = zstd::encode_all(&content[..], 3).unwrap();
        for step in [1, 1000, packed.len()] {
            assert!(inflate(&packed, step).unwrap() == content, "in parts of {step}");
        }
        assert_eq!(inflate(&[], 1), Ok(Vec::new()), "nothing is sent when nothing is missing");
    }

    #[test]
    fn what_is_cut_or_garbage_is_told() {
        let packed = zstd::encode_all(&vec![7_u8; 300_000][..], 3).unwrap();
        for at in 1..packed.len() {
            assert_eq!(inflate(&packed[..at], 5), Err(EncodingError::CutShort), "cut at {at}");
        }
        assert!(matches!(inflate(b"garbage that is no zstd", 9), Err(EncodingError::Garbage(_))));
        let mut damaged = packed.clone();
        damaged[4] ^= 0xff;
        assert!(inflate(&damaged, 9).is_err());
    }

    /// A header that asks for a window of 2 GiB is refused before memory is taken for it.
    #[test]
    fn the_window_is_bounded() {
        // Magic number; no single segment, no size; window of 2^31 (exponent 21, mantissa 0).
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x00, 0x00, 0x00];
        assert!(matches!(inflate(&header, 99), Err(EncodingError::Garbage(_))));
    }
}
