//! Reads one HTTP/1.1 response from bytes as they arrive and judges it. Pure: no sockets here.

use super::sample::{Kind, NO_RELEASE};

/// A response larger than this is not one of our fixtures'.
const MAX_RESPONSE: usize = 4 << 20;

/// What is known so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes are needed.
    Incomplete,
    /// The response is complete.
    Done(Answer),
}

/// A complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) release: u8,
    /// The server announced that it ends the connection (or sent bytes that nobody asked for).
    pub(super) closes: bool,
}

/// The bodies that are right, and the names seen.
#[derive(Debug)]
pub(super) struct Accepted {
    lines: Vec<String>,
    learns: bool,
    body_len: Option<usize>,
}

impl Accepted {
    pub(super) fn new(lines: Vec<String>, body_len: Option<usize>) -> Self {
        Self { learns: lines.is_empty(), lines, body_len }
    }

    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Judges a complete body.
    fn judge(&mut self, body: &[u8]) -> (Kind, u8) {
        if body.is_empty() || self.body_len.is_some_and(|length| body.len() < length) {
            return (Kind::Short, NO_RELEASE);
        }
        let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if self.body_len.is_some_and(|length| body.len() > length) {
            return (Kind::Foreign, NO_RELEASE);
        }
        if let Some(index) = self.lines.iter().position(|known| known.as_bytes() == line) {
            return (Kind::Ok, index as u8);
        }
        match std::str::from_utf8(line) {
            Ok(text) if self.learns && self.lines.len() < usize::from(NO_RELEASE) => {
                self.lines.push(text.to_owned());
                (Kind::Ok, (self.lines.len() - 1) as u8)
            }
            _ => (Kind::Foreign, NO_RELEASE),
        }
    }
}

/// Looks at all bytes received since the request was sent.
pub(super) fn read(bytes: &[u8], accepted: &mut Accepted) -> Progress {
    let Some(head_end) = find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > MAX_RESPONSE { foreign() } else { Progress::Incomplete };
    };
    let Some(head) = Head::parse(&bytes[..head_end]) else { return foreign() };
    let body = &bytes[head_end + 4..];
    let Some(length) = head.length.filter(|length| *length <= MAX_RESPONSE) else { return foreign() };
    if body.len() < length {
        return Progress::Incomplete;
    }
    let surplus = body.len() > length;
    let (kind, release) = match head.status {
        500..=599 => (Kind::ServerError, NO_RELEASE),
        200 if surplus => (Kind::Foreign, NO_RELEASE),
        200 => accepted.judge(&body[..length]),
        _ => (Kind::Foreign, NO_RELEASE),
    };
    Progress::Done(Answer { kind, release, closes: head.closes || surplus })
}

fn foreign() -> Progress {
    Progress::Done(Answer { kind: Kind::Foreign, release: NO_RELEASE, closes: true })
}

/// The few parts of a response head that matter here.
struct Head {
    status: u16,
    length: Option<usize>,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let status_line = lines.next()?;
        let old = status_line.starts_with("HTTP/1.0 ");
        let status = status_line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5))?.parse().ok()?;
        let mut head = Self { status, length: None, closes: old };
        for line in lines {
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") {
                head.length = Some(value.trim().parse().ok()?);
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes = value.trim().eq_ignore_ascii_case("close");
            }
        }
        Some(head)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(response: &str) -> Option<Kind> {
        let mut accepted = Accepted::new(vec!["shop v1".to_owned()], None);
        match read(response.as_bytes(), &mut accepted) {
            Progress::Done(answer) => Some(answer.kind),
            Progress::Incomplete => None,
        }
    }

    #[test]
    fn judges_complete_responses_only() {
        let right = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nshop v1\n";
        assert_eq!(kind_of(right), Some(Kind::Ok));
        for end in 0..right.len() {
            assert_eq!(kind_of(&right[..end]), None, "{:?} is not complete", &right[..end]);
        }
    }

    #[test]
    fn wrong_answers_are_told_apart() {
        let cases = [
            ("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n", Kind::ServerError),
            ("HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n", Kind::Foreign),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Kind::Short),
            ("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nblog v1\n", Kind::Foreign),
            ("HTTP/1.1 200 OK\r\n\r\nshop v1\n", Kind::Foreign),
            ("220 mail.example\r\n\r\n", Kind::Foreign),
            ("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nshop v1\nsurplus", Kind::Foreign),
        ];
        for (response, kind) in cases {
            assert_eq!(kind_of(response), Some(kind), "{response:?}");
        }
    }

    #[test]
    fn padding_is_allowed_and_its_length_checked() {
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nshop v1\n....";
        for (length, kind) in [(12, Kind::Ok), (20, Kind::Short), (10, Kind::Foreign)] {
            let mut accepted = Accepted::new(vec!["shop v1".to_owned()], Some(length));
            let Progress::Done(answer) = read(response, &mut accepted) else { unreachable!("complete") };
            assert_eq!(answer.kind, kind, "expected length {length}");
        }
    }

    #[test]
    fn learns_names_when_none_were_given() {
        let mut accepted = Accepted::new(Vec::new(), None);
        for (body, index) in [("a 1\n", 0), ("b 2\n", 1), ("a 1\n", 0)] {
            let response = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n{body}");
            let Progress::Done(answer) = read(response.as_bytes(), &mut accepted) else {
                unreachable!("complete")
            };
            assert_eq!((answer.kind, answer.release, answer.closes), (Kind::Ok, index, true));
        }
        assert_eq!(accepted.lines(), ["a 1", "b 2"]);
    }
}
