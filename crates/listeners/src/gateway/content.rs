//! Content: the end of DATA found, dots taken off and put on, and what makes a message unfit to be relayed.
//!
//! Three small machines, each over octets in any pieces:
//!
//! - [`DotReader`] takes what a client sends behind DATA and gives the content. Only CR LF `.` CR LF ends it (RFC 5321 4.1.1.4); whatever
//!   else looks like an end to some server (`LF . LF`, `LF . CR LF`, `CR . CR LF`, ...) is content here.
//! - [`Guard`] looks at content, from DATA or BDAT, and refuses it for a bare CR or LF, for a line that is a lone dot to a server that
//!   drops NULs, for a loop, and for a header beyond ASCII where that can't be had. So no such content ever goes out, and nobody behind
//!   this node can find another end in it.
//! - [`DotWriter`] writes content for DATA, and the end.

/// Received lines that are a loop (RFC 5321 6.3 says at least 100).
pub const MAX_RECEIVED: u32 = 100;

/// Reads the content of DATA.
#[derive(Debug, Default)]
pub struct DotReader(Place);

/// Where in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Behind CR LF, or at the beginning.
    #[default]
    Start,
    /// Behind a dot at the start.
    Dot,
    /// Behind that dot and a CR.
    DotCr,
    /// Within a line.
    Text,
    /// Behind a CR.
    Cr,
}

impl DotReader {
    /// Takes octets, appends the content in them to `content`, and gives how many were taken and whether the content ended.
    /// What is behind the end is not taken.
    pub fn read(&mut self, octets: &[u8], content: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        while let Some(&octet) = octets.get(at) {
            match (self.0, octet) {
                (Place::Text, _) => {
                    // Most of a message: up to the next line end as a whole.
                    let rest = &octets[at..];
                    let length = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    content.extend_from_slice(&rest[..length]);
                    at += length;
                    if let Some(&end) = octets.get(at) {
                        content.push(end);
                        at += 1;
                        self.0 = if end == b'\r' { Place::Cr } else { Place::Text };
                    }
                    continue;
                }
                (Place::Start, b'.') => self.0 = Place::Dot,
                (Place::Dot, b'\r') => self.0 = Place::DotCr,
                (Place::DotCr, b'\n') => return (at + 1, true),
                (place, octet) => {
                    if place == Place::DotCr {
                        content.push(b'\r');
                    }
                    content.push(octet);
                    self.0 = match (place, octet) {
                        (Place::Cr, b'\n') => Place::Start,
                        (_, b'\r') => Place::Cr,
                        _ => Place::Text,
                    };
                }
            }
            at += 1;
        }
        (at, false)
    }
}

/// Why content is not relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unfit {
    /// A CR or an LF that is no line end.
    BareLineEnd,
    /// A line of one dot and NULs.
    DotAmongNuls,
    /// As many Received lines as [`MAX_RECEIVED`].
    Loop,
    /// A header beyond ASCII, where [`Guard::want_ascii_header`] was said.
    HeaderBeyondAscii,
    /// Larger than is taken.
    TooLarge,
}

/// Looks at content as it passes.
#[derive(Debug)]
pub struct Guard {
    after_cr: bool,
    /// The header, up to the first empty line.
    in_header: bool,
    /// Octets of the line so far that are `received:`; `None` when it is another.
    matched: Option<usize>,
    received: u32,
    /// Fields have to be ASCII, and this is where in one of them; `None` where they need not, or are over.
    field: Option<Field>,
    /// The line's octets that are no NULs: how many, up to 2.
    seen: u8,
    first_is_dot: bool,
    has_nul: bool,
    empty: bool,
}

/// Where in a field of the header (RFC 5322 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// At the start of the first line, which continues nothing.
    First,
    /// At the start of another line.
    Start,
    /// Within what may become a name.
    Name,
    /// Behind the colon, or in a line that continues a field.
    Value,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            after_cr: false,
            in_header: true,
            matched: Some(0),
            received: 0,
            field: None,
            seen: 0,
            first_is_dot: false,
            has_nul: false,
            empty: true,
        }
    }
}

impl Guard {
    /// Refuses a header beyond ASCII. To be said before the first octets.
    pub fn want_ascii_header(&mut self) {
        self.field = Some(Field::First);
    }

    /// Looks at the next octets.
    ///
    /// # Errors
    /// What is wrong with them. Nothing can be asked after it.
    pub fn check(&mut self, mut content: &[u8]) -> Result<(), Unfit> {
        while let Some(&first) = content.first() {
            if self.after_cr {
                if first != b'\n' {
                    return Err(Unfit::BareLineEnd);
                }
                self.after_cr = false;
                self.end_line()?;
                content = &content[1..];
                continue;
            }
            let length = memchr::memchr2(b'\r', b'\n', content).unwrap_or(content.len());
            self.text(&content[..length])?;
            match content.get(length) {
                Some(b'\n') => return Err(Unfit::BareLineEnd),
                Some(_) => {
                    self.after_cr = true;
                    content = &content[length + 1..];
                }
                None => break,
            }
        }
        Ok(())
    }

    /// The content is over.
    ///
    /// # Errors
    /// When it ends with a bare CR, or with a dot among NULs.
    pub fn end(&mut self) -> Result<(), Unfit> {
        if self.after_cr {
            return Err(Unfit::BareLineEnd);
        }
        self.end_line()
    }

    fn text(&mut self, part: &[u8]) -> Result<(), Unfit> {
        if part.is_empty() {
            return Ok(());
        }
        self.empty = false;
        for octet in part {
            if self.seen == 2 {
                break;
            }
            match octet {
                0 => self.has_nul = true,
                b'.' if self.seen == 0 => (self.seen, self.first_is_dot) = (1, true),
                _ => self.seen += 1,
            }
        }
        const RECEIVED: &[u8] = b"received:";
        if let Some(matched) = self.matched.filter(|_| self.in_header) {
            let wanted = &RECEIVED[matched..];
            let length = wanted.len().min(part.len());
            self.matched = part[..length].eq_ignore_ascii_case(&wanted[..length]).then_some(matched + length);
            if self.matched == Some(RECEIVED.len()) {
                self.matched = None;
                self.received += 1;
                if self.received >= MAX_RECEIVED {
                    return Err(Unfit::Loop);
                }
            }
        }
        match self.field.filter(|_| self.in_header) {
            Some(field) => self.field(field, part),
            None => Ok(()),
        }
    }

    /// A line that is no field ends the header, as it does for every MTA: content without an empty line is a body, and a body may be
    /// beyond ASCII.
    fn field(&mut self, field: Field, part: &[u8]) -> Result<(), Unfit> {
        let (field, value) = match (field, part[0]) {
            (Field::Value, _) | (Field::Start, b' ' | b'\t') => (Some(Field::Value), part),
            _ => match part.iter().position(|octet| !matches!(octet, b'!'..=b'9' | b';'..=b'~')) {
                None => (Some(Field::Name), &[][..]),
                Some(at) if part[at] == b':' && (at > 0 || field == Field::Name) => {
                    (Some(Field::Value), &part[at + 1..])
                }
                Some(_) => (None, &[][..]),
            },
        };
        self.field = field;
        if value.is_ascii() { Ok(()) } else { Err(Unfit::HeaderBeyondAscii) }
    }

    fn end_line(&mut self) -> Result<(), Unfit> {
        if self.has_nul && self.seen == 1 && self.first_is_dot {
            return Err(Unfit::DotAmongNuls);
        }
        self.in_header &= !self.empty;
        self.matched = Some(0);
        self.field = self.field.filter(|field| *field != Field::Name).map(|_| Field::Start);
        (self.seen, self.first_is_dot, self.has_nul, self.empty) = (0, false, false, true);
        Ok(())
    }
}

/// Writes content for DATA (RFC 5321 4.5.2). The content has passed a [`Guard`].
#[derive(Debug)]
pub struct DotWriter {
    at_start: bool,
}

impl Default for DotWriter {
    fn default() -> Self {
        Self { at_start: true }
    }
}

impl DotWriter {
    /// Appends content with its dots doubled.
    pub fn write(&mut self, content: &[u8], out: &mut Vec<u8>) {
        out.reserve(content.len() + content.len() / 64);
        for line in content.split_inclusive(|octet| *octet == b'\n') {
            if self.at_start && line[0] == b'.' {
                out.push(b'.');
            }
            out.extend_from_slice(line);
            self.at_start = line.ends_with(b"\n");
        }
    }

    /// Appends the end. Content without a last line end, which only BDAT can bring, gets one: DATA has no other way.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if !self.at_start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// Content, the octets taken, whether it ended, and what the guard says.
    fn read(octets: &[u8], piece: usize) -> (Vec<u8>, usize, bool, Result<(), Unfit>) {
        let (mut reader, mut guard, mut content, mut taken) = (DotReader::default(), Guard::default(), Vec::new(), 0);
        for piece in octets.chunks(piece.max(1)) {
            let before = content.len();
            let (used, ended) = reader.read(piece, &mut content);
            taken += used;
            if let Err(unfit) = guard.check(&content[before..]) {
                return (content, taken, ended, Err(unfit));
            }
            if ended {
                return (content, taken, true, guard.end());
            }
        }
        (content, taken, false, Ok(()))
    }

    #[test]
    fn only_crlf_dot_crlf_ends_and_every_other_end_is_refused() {
        for end in
            ["\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.\n", "\r\n.\r", "\r.\r", "\n.\r", "\r\n\0.\r\n", "\r\n\0.\0\r\n"]
        {
            let smuggled = format!("first{end}MAIL FROM:<x@y.example>\r\n.\r\n");
            let (_, taken, ended, guard) = read(smuggled.as_bytes(), usize::MAX);
            assert!(ended && taken == smuggled.len(), "{end:?} ended the message");
            assert!(guard.is_err(), "{end:?} was relayed");
        }
        // A dot at the start is taken off whatever follows it, and what is left is no dot to anybody.
        assert_eq!(read(b"\r\n.\0\r\n.\r\n", usize::MAX), (b"\r\n\0\r\n".to_vec(), 9, true, Ok(())));
        let (content, taken, ended, guard) = read(b"a\r\n..\r\n.b\r\n\r\n.\r\nQUIT\r\n", usize::MAX);
        assert_eq!((content.as_slice(), taken, ended, guard), (b"a\r\n.\r\nb\r\n\r\n".as_slice(), 16, true, Ok(())));
        assert_eq!(read(b".\r\n", usize::MAX), (Vec::new(), 3, true, Ok(())), "an empty message");
        assert_eq!(read(b"nul\0s\r\n.\r\n", usize::MAX).3, Ok(()));
        assert_eq!(read(b"...\0\r\n.\r\n", usize::MAX).3, Ok(()), "two dots are none alone");
    }

    #[test]
    fn the_last_line_is_looked_at_though_it_has_no_end() {
        for (content, fit) in [
            (&b"x"[..], Ok(())),
            (b"\0", Ok(())),
            (b"x\r", Err(Unfit::BareLineEnd)),
            (b"x\r\n\0.", Err(Unfit::DotAmongNuls)),
            (b".\0", Err(Unfit::DotAmongNuls)),
        ] {
            let mut guard = Guard::default();
            assert_eq!(guard.check(content).and_then(|()| guard.end()), fit, "{content:?}");
        }
    }

    #[test]
    fn a_hundred_received_lines_in_the_header_are_a_loop_and_in_the_body_are_not() {
        let lines = |count| "RECEIVED: from x\r\n\tby y\r\n".repeat(count);
        let message = |head: usize, body: usize| format!("{}Subject: x\r\n\r\n{}.\r\n", lines(head), lines(body));
        for piece in [1, 7, usize::MAX] {
            assert_eq!(read(message(99, 200).as_bytes(), piece).3, Ok(()));
            assert_eq!(read(message(100, 0).as_bytes(), piece).3, Err(Unfit::Loop));
        }
    }

    #[test]
    fn a_header_beyond_ascii_is_refused_where_it_has_to_be_ascii_and_a_body_is_not() {
        const BEYOND: Result<(), Unfit> = Err(Unfit::HeaderBeyondAscii);
        for (content, fit) in [
            ("Subject: x\r\nTo: y\r\n\r\n\u{e4}\r\n", Ok(())),
            ("Subject: \u{e4}\r\n\r\nx\r\n", BEYOND),
            ("Subject: x\r\n \u{e4}\r\n\r\nx\r\n", BEYOND),
            ("Subject: x\r\n\tx\r\nX:\u{e4}", BEYOND),
            ("Subject:\r\n\r\n\u{e4}:\r\n", Ok(())),
            // No header, so it is a body.
            ("\u{e4}", Ok(())),
            (" \u{e4}: x\r\n", Ok(())),
            (":\u{e4}\r\n", Ok(())),
            ("Dear all\r\nNote: \u{e4}\r\n", Ok(())),
            ("Dear\r\nNote: \u{e4}\r\n", Ok(())),
            ("Subject: x\r\nDear \u{e4}: x\r\n\u{e4}: x\r\n", Ok(())),
        ] {
            for piece in [1, 3, usize::MAX] {
                let mut guard = Guard::default();
                guard.want_ascii_header();
                let mut pieces = content.as_bytes().chunks(piece);
                assert_eq!(pieces.try_for_each(|piece| guard.check(piece)), fit, "{content:?} by {piece}");
            }
            assert_eq!(Guard::default().check(content.as_bytes()), Ok(()), "{content:?} where it need not be");
        }
    }

    proptest! {
        #[test]
        fn content_survives_dots_put_on_and_taken_off(lines in proptest::collection::vec("[.a\\x00]{0,5}", 0..8), piece in 1usize..9) {
            let content: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect();
            let (mut writer, mut wire) = (DotWriter::default(), Vec::new());
            content.chunks(piece).for_each(|piece| writer.write(piece, &mut wire));
            writer.end(&mut wire);
            let (mut reader, mut back) = (DotReader::default(), Vec::new());
            let (used, ended) = reader.read(&wire, &mut back);
            prop_assert!(ended && used == wire.len());
            prop_assert_eq!(back, content);
        }

        #[test]
        fn any_pieces_of_the_same_octets_give_the_same(octets in proptest::collection::vec(
            proptest::sample::select(b"\r\n..a\0".to_vec()), 0..40), piece in 1usize..9)
        {
            let (whole, pieces) = (read(&octets, usize::MAX), read(&octets, piece));
            prop_assert_eq!(whole.3, pieces.3);
            if whole.3.is_ok() {
                prop_assert_eq!(whole, pieces);
            }
        }

        #[test]
        fn what_passes_the_guard_has_one_end_only_for_any_server(
            // Any octets seldom pass; lines do, and the last of them need not have an end.
            octets in prop_oneof![
                proptest::collection::vec(proptest::sample::select(b"\r\n.a\0".to_vec()), 0..40),
                proptest::collection::vec("[.a\\x00]{0,3}", 0..6).prop_map(|lines| lines.join("\r\n").into_bytes()),
            ],
        ) {
            let (mut guard, mut writer, mut wire) = (Guard::default(), DotWriter::default(), Vec::new());
            if guard.check(&octets).is_ok() && guard.end().is_ok() {
                writer.write(&octets, &mut wire);
                writer.end(&mut wire);
                // A server that takes any of CR LF, CR, LF for a line end, and drops NULs.
                let text: Vec<u8> = wire.iter().copied().filter(|octet| *octet != 0).collect();
                let text = String::from_utf8(text).unwrap().replace("\r\n", "\n").replace('\r', "\n");
                let lone = text.split('\n').filter(|line| *line == ".").count();
                prop_assert_eq!(lone, 1, "{:?}", text);
            }
        }
    }
}
