//! The wire form of many files in one stream: pure, no I/O.
//!
//! A stream is any number of frames, one after the other, with nothing before, between or after them:
//!
//! | bytes | what |
//! |---|---|
//! | 32 | BLAKE3 digest of the content, raw |
//! | 8 | size of the content, `u64`, little-endian |
//! | size | the content |
//!
//! An empty stream is valid. This side decides nothing about digests and sizes: [`super::receive`] does,
//! at each header, before a byte of the content is taken.

use deployd_api::ids::Digest;

/// Bytes before each content.
pub const HEADER_BYTES: usize = 40;

/// What a stream holds, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A content begins.
    Begin(Header),
    /// Its next bytes; never empty.
    Bytes(&'a [u8]),
    /// It is complete.
    End,
}

/// What is known of a content before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its digest, as claimed.
    pub digest: Digest,
    /// Its size, as claimed.
    pub size: u64,
}

/// A stream that is not of the form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It broke off within a header.
    #[error("the stream ended {0} bytes into a header")]
    InHeader(usize),
    /// It broke off within a content.
    #[error("the stream ended {0} bytes before the end of a content")]
    InContent(u64),
}

/// Cuts a stream into pieces, however its bytes arrive.
#[derive(Debug)]
pub struct Decoder {
    header: [u8; HEADER_BYTES],
    at: At,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Header(usize),
    Content(u64),
}

impl Default for Decoder {
    fn default() -> Self {
        Self { header: [0; HEADER_BYTES], at: At::Header(0) }
    }
}

impl Decoder {
    /// Takes the next bytes and hands every piece in them to `sink`. After an error of the sink the
    /// decoder must not be fed again.
    pub fn feed<E>(
        &mut self,
        mut input: &[u8],
        mut sink: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !input.is_empty() {
            match self.at {
                At::Header(have) => {
                    let n = input.len().min(HEADER_BYTES - have);
                    self.header[have..have + n].copy_from_slice(&input[..n]);
                    input = &input[n..];
                    self.at = At::Header(have + n);
                    if have + n == HEADER_BYTES {
                        let header = self.parse();
                        self.at = At::Content(header.size);
                        sink(Piece::Begin(header))?;
                        self.end_if_complete(&mut sink)?;
                    }
                }
                At::Content(left) => {
                    let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    sink(Piece::Bytes(&input[..n]))?;
                    input = &input[n..];
                    self.at = At::Content(left - n as u64);
                    self.end_if_complete(&mut sink)?;
                }
            }
        }
        Ok(())
    }

    /// The stream has ended: refused unless it ended between two contents.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.at {
            At::Header(0) => Ok(()),
            At::Header(have) => Err(FrameError::InHeader(have)),
            At::Content(left) => Err(FrameError::InContent(left)),
        }
    }

    fn end_if_complete<E>(&mut self, sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        if let At::Content(0) = self.at {
            self.at = At::Header(0);
            sink(Piece::End)?;
        }
        Ok(())
    }

    fn parse(&self) -> Header {
        let mut digest = [0; 32];
        let mut size = [0; 8];
        digest.copy_from_slice(&self.header[..32]);
        size.copy_from_slice(&self.header[32..]);
        Header { digest: Digest::from_bytes(digest), size: u64::from_le_bytes(size) }
    }
}

/// The header of a frame.
pub fn encode_header(header: Header) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..32].copy_from_slice(header.digest.as_bytes());
    out[32..].copy_from_slice(&header.size.to_le_bytes());
    out
}

#[cfg(test)]
pub(crate) fn encode(contents: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for c in contents {
        out.extend(encode_header(Header { digest: Digest::of(c), size: c.len() as u64 }));
        out.extend(*c);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    type Content = (Digest, Vec<u8>);

    fn decode(stream: &[u8], cuts: &[usize]) -> (Vec<Content>, Result<(), FrameError>) {
        let (mut decoder, mut out, mut ends) = (Decoder::default(), Vec::new(), 0);
        let mut rest = stream;
        for cut in cuts.iter().chain(std::iter::repeat(&usize::MAX)) {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            let fed: Result<(), Infallible> = decoder.feed(now, |piece| {
                match piece {
                    Piece::Begin(h) => out.push((h.digest, Vec::new())),
                    Piece::Bytes(b) => out.last_mut().unwrap().1.extend_from_slice(b),
                    Piece::End => ends += 1,
                }
                Ok(())
            });
            fed.unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        assert!(ends <= out.len());
        (out, decoder.finish())
    }

    proptest! {
        #[test]
        fn contents_come_out_as_they_went_in(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
            cuts in prop::collection::vec(1usize..70, 0..40),
        ) {
            let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
            let (out, end) = decode(&encode(&slices), &cuts);
            prop_assert_eq!(end, Ok(()));
            let expected: Vec<_> = contents.iter().map(|c| (Digest::of(c), c.clone())).collect();
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn any_cut_short_stream_is_told(content in prop::collection::vec(any::<u8>(), 1..50), at in 1usize..89) {
            let stream = encode(&[&content]);
            prop_assume!(at < stream.len());
            prop_assert!(decode(&stream[..at], &[]).1.is_err());
        }

        #[test]
        fn any_bytes_are_survived(stream in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(1usize..70, 0..9)) {
            decode(&stream, &cuts).0.len();
        }
    }
}
