//! Messages of D-Bus, as far as systemd is asked with them (D-Bus specification, "Marshaling" and "Message Format"): calls
//! are written, and answers and signals are read, in the byte order of this machine, which is little endian.

use std::io::{self, Read};

/// Longest message that is read. systemd's are some hundred bytes.
const MAX: usize = 1 << 20;
/// The byte that says little endian.
const LITTLE: u8 = b'l';
/// Kinds of messages, and of fields in their headers.
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_TO: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Values behind each other, each at a multiple of its size.
#[derive(Debug, Default)]
pub struct Values(Vec<u8>);

impl Values {
    /// A number.
    pub fn number(&mut self, number: u32) -> &mut Self {
        self.align(4);
        self.0.extend(number.to_le_bytes());
        self
    }

    /// A text, or a path of an object.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.bytes());
        self.0.push(0);
        self
    }

    /// An array of structures, each of which `each` writes.
    pub fn structures<T>(&mut self, items: &[T], each: impl Fn(&mut Self, &T)) -> &mut Self {
        self.number(0);
        let length_at = self.0.len().saturating_sub(4);
        // Not counted.
        self.align(8);
        let begin = self.0.len();
        for item in items {
            self.align(8);
            each(self, item);
        }
        let length = self.0.len().saturating_sub(begin);
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        if let Some(place) = self
            .0
            .get_mut(length_at..begin)
            .and_then(|place| place.get_mut(..4))
        {
            place.copy_from_slice(&length);
        }
        self
    }

    /// A value that says what it is: a text.
    pub fn any_text(&mut self, text: &str) {
        self.signature("s").text(text);
    }

    /// Yes or no.
    pub fn any_truth(&mut self, truth: bool) {
        self.signature("b").number(truth.into());
    }

    /// A number that may be less than zero.
    pub fn any_number(&mut self, number: i32) {
        self.signature("i").number(number.cast_unsigned());
    }

    /// An array with one number.
    pub fn any_numbers(&mut self, number: u32) {
        self.signature("au").number(4).number(number);
    }

    /// What comes after it.
    fn signature(&mut self, signature: &str) -> &mut Self {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.bytes());
        self.0.push(0);
        self
    }

    fn align(&mut self, size: usize) {
        self.0.resize(self.0.len().next_multiple_of(size), 0);
    }
}

/// Whom a call is for, and what it is.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The peer's name on a bus.
    pub destination: &'static str,
    /// The object.
    pub path: &'static str,
    /// Its interface.
    pub interface: &'static str,
    /// The method.
    pub member: &'static str,
    /// Of what kinds its arguments are.
    pub signature: &'static str,
}

/// A call, as the `serial`th message of its sender.
pub fn call(serial: u32, method: Method, arguments: &Values) -> Vec<u8> {
    let fields = [
        (PATH, "o", method.path),
        (INTERFACE, "s", method.interface),
        (MEMBER, "s", method.member),
        (DESTINATION, "s", method.destination),
        (SIGNATURE, "g", method.signature),
    ];
    // A method without arguments has no signature.
    let count = fields.len().saturating_sub(method.signature.is_empty().into());
    let mut message = Values(vec![LITTLE, CALL, 0, 1]);
    message
        .number(u32::try_from(arguments.0.len()).unwrap_or(u32::MAX))
        .number(serial)
        .structures(
            fields.get(..count).unwrap_or_default(),
            |values, (kind, signature, text)| {
                values.0.push(*kind);
                values.signature(signature);
                match *kind {
                    SIGNATURE => _ = values.signature(text),
                    _ => _ = values.text(text),
                }
            },
        );
    message.align(8);
    message.0.extend(&arguments.0);
    message.0
}

/// A message that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The answer to the call of this number, with its first text.
    Return(u32, Option<String>),
    /// That one's refusal: its name and what it says.
    Error(u32, String, String),
    /// systemd has done with a job: its path and how it went.
    JobRemoved(String, String),
    /// Something else.
    Other,
}

/// Reads the next message.
///
/// # Errors
/// That of `source`, or that it is none.
pub fn hear(source: &mut impl Read) -> io::Result<Heard> {
    let mut start = [0; 16];
    source.read_exact(&mut start)?;
    let mut head = Reader::of(&start);
    let (order, kind) = (head.byte(), head.byte());
    let (body, fields) = (head.at(4).number(), head.at(12).number());
    let (Some(LITTLE), Some(kind), Some(body), Some(fields)) = (order, kind, body, fields) else {
        return Err(malformed());
    };
    let (body, fields) = (to_size(body)?, to_size(fields)?);
    let body_at = fields.next_multiple_of(8);
    let mut rest = vec![0; body_at.saturating_add(body)];
    source.read_exact(&mut rest)?;
    let (fields, body) = (rest.get(..fields), rest.get(body_at..));
    understand(kind, fields.unwrap_or_default(), body.unwrap_or_default()).ok_or_else(malformed)
}

fn to_size(length: u32) -> io::Result<usize> {
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX);
    length.ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its answer is no message of D-Bus")
}

fn understand(kind: u8, fields: &[u8], body: &[u8]) -> Option<Heard> {
    let (mut member, mut error, mut signature) = (String::new(), String::new(), String::new());
    let mut reply_to = 0;
    let mut reader = Reader::of(fields);
    while !reader.is_at_end() {
        reader.align(8);
        let field = reader.byte()?;
        let text = match reader.signature()?.as_str() {
            "s" | "o" => reader.text()?,
            "g" => reader.signature()?,
            "u" => {
                let number = reader.number()?;
                if field == REPLY_TO {
                    reply_to = number;
                }
                continue;
            }
            // Only those are known that answers are made of.
            _ => return (kind != RETURN && kind != ERROR).then_some(Heard::Other),
        };
        match field {
            MEMBER => member = text,
            ERROR_NAME => error = text,
            SIGNATURE => signature = text,
            _ => {}
        }
    }
    let mut reader = Reader::of(body);
    let mut first = || signature.starts_with(['s', 'o']).then(|| reader.text()).flatten();
    Some(match kind {
        RETURN => Heard::Return(reply_to, first()),
        ERROR => Heard::Error(reply_to, error, first().unwrap_or_default()),
        _ if member == "JobRemoved" && signature == "uoss" => {
            reader.number()?;
            let (job, _unit) = (reader.text()?, reader.text()?);
            Heard::JobRemoved(job, reader.text()?)
        }
        _ => Heard::Other,
    })
}

/// Reads what [`Values`] writes; nothing where there is not enough.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn at(&mut self, at: usize) -> &mut Self {
        self.at = at;
        self
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn align(&mut self, size: usize) {
        self.at = self.at.next_multiple_of(size);
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.number()?;
        self.ended(usize::try_from(length).ok()?)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?;
        self.ended(length.into())
    }

    /// A text with a zero behind it.
    fn ended(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8(self.take(length)?.to_owned()).ok()?;
        self.byte().filter(|end| *end == 0)?;
        Some(text)
    }
}
