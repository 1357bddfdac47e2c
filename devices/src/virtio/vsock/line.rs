//! The line with which a client asks for a connection: `CONNECT <port>\n`.

use super::LINE_MAX;

/// What the first bytes of a client are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// The beginning of a line that can still become right.
    Incomplete,
    /// A request for a connection.
    Connect {
        /// The port in the guest.
        port: u32,
        /// Bytes of the line, its end included.
        len: usize,
    },
    /// Something else.
    Wrong,
}

/// Reads the line at the beginning of `bytes`.
///
/// As clients of Firecracker may write it: the word in any case, any white space around it and the port.
pub(super) fn parse(bytes: &[u8]) -> Line {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < LINE_MAX {
            Line::Incomplete
        } else {
            Line::Wrong
        };
    };
    let text = bytes.get(..end).and_then(|line| std::str::from_utf8(line).ok());
    let mut words = text.unwrap_or_default().split_ascii_whitespace();
    match (words.next(), words.next().map(str::parse), words.next()) {
        (Some(word), Some(Ok(port)), None) if word.eq_ignore_ascii_case("connect") => Line::Connect {
            port,
            len: end.saturating_add(1),
        },
        _ => Line::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_port() {
        for (bytes, port, len) in [
            (&b"CONNECT 52\n"[..], 52, 11),
            (b"connect 0\n", 0, 10),
            (b"CONNECT 52\r\nhello\n", 52, 12),
            (b"  Connect \t 4294967295 \n", u32::MAX, 24),
        ] {
            assert_eq!(parse(bytes), Line::Connect { port, len });
        }
    }

    #[test]
    fn a_line_may_come_in_parts_but_not_grow_for_ever() {
        for len in 0..LINE_MAX {
            assert_eq!(
                parse(&b"CONNECT 52                        "[..len]),
                Line::Incomplete
            );
        }
        assert_eq!(parse(&[b' '; LINE_MAX]), Line::Wrong);
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [
            &b"\n"[..],
            b"CONNECT\n",
            b"CONNECT \n",
            b"CONNECT port\n",
            b"CONNECT -1\n",
            b"CONNECT 4294967296\n",
            b"CONNECT 52 53\n",
            b"CONNECT52\n",
            b"LISTEN 52\n",
            b"\xff\xfe\n",
            b"GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(parse(bytes), Line::Wrong, "{bytes:?}");
        }
    }
}
