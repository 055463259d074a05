//! JSON as it was sent: a strict RFC 8259 reader that keeps numbers as text and members in order, so that nothing is
//! lost before validation.

use std::fmt;

use crate::storage::push_json_string;

/// The nesting that a request may have; docs/http.md, "Limits".
pub const MAX_DEPTH: usize = 64;

/// The digits that a number inside a `Json` field may have in plain notation; enough for every binary64. The database
/// writes numbers out, so that a few octets with a large exponent would become megabytes.
pub const MAX_NUMBER_DIGITS: usize = 400;

/// A JSON value as sent by a caller.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// The number's text, exactly as sent; any magnitude.
    Number(String),
    /// A string; may contain NUL (refused by validation).
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object: members in the order sent, names unique.
    Object(Vec<(String, Json)>),
}

/// Why octets are no JSON. `Display` is one sentence for the caller; it repeats nothing of the document but the
/// names in the pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// From 1.
    pub line: usize,
    /// From 1, in Unicode scalar values.
    pub column: usize,
    /// The value that the reader was in, as a URI fragment: `#/items/0`. Cut at 1000 octets.
    pub pointer: String,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, line, column, pointer } = self;
        write!(f, "{message}, at line {line}, column {column} (`{pointer}`)")
    }
}

impl std::error::Error for JsonError {}

/// Reads one JSON document of at most `max_depth` nested arrays and objects. Refuses what RFC 8259 refuses, and also
/// member names that appear twice, a byte order mark, and escapes of half a surrogate pair.
///
/// # Errors
/// With the place of the first fault.
pub fn parse(input: &[u8], max_depth: usize) -> Result<Json, JsonError> {
    let mut reader = Reader { input, at: 0, depth: 0, max_depth };
    reader.document().map_err(|fault| reader.explain(fault))
}

/// A fault, and the way to it, innermost first.
struct Fault {
    message: String,
    at: usize,
    path: Vec<String>,
}

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    depth: usize,
    max_depth: usize,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Json, Fault> {
        if self.input.starts_with(b"\xEF\xBB\xBF") {
            return Err(self.fault("the document must not begin with a byte order mark"));
        }
        self.space();
        if self.peek().is_none() {
            return Err(self.fault("the document is empty"));
        }
        let value = self.value()?;
        self.space();
        match self.peek() {
            None => Ok(value),
            Some(_) => Err(self.fault("the document goes on after its value")),
        }
    }

    fn value(&mut self) -> Result<Json, Fault> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(_) => Err(self.fault("a JSON value was expected")),
            None => Err(self.ended()),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, Fault> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.fault("a JSON value was expected"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Json, Fault>) -> Result<Json, Fault> {
        if self.depth == self.max_depth {
            return Err(self.fault(format!("the document is nested more than {} levels deep", self.max_depth)));
        }
        self.depth += 1;
        self.at += 1;
        self.space();
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Json, Fault> {
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value().map_err(|fault| fault.within(&items.len().to_string()))?);
            self.space();
            if self.take(b']') {
                return Ok(Json::Array(items));
            }
            self.expect(b',', "a comma or a closing bracket was expected")?;
            self.space();
        }
    }

    fn object(&mut self) -> Result<Json, Fault> {
        let mut members: Vec<(String, Json)> = Vec::new();
        let mut places = Vec::new();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            if self.peek().is_some_and(|byte| byte != b'"') {
                return Err(self.fault("a member name in double quotes was expected"));
            }
            places.push(self.at);
            let name = self.string()?;
            self.space();
            self.expect(b':', "a colon was expected").map_err(|fault| fault.within(&name))?;
            self.space();
            match self.value() {
                Ok(value) => members.push((name, value)),
                Err(fault) => return Err(fault.within(&name)),
            }
            self.space();
            if self.take(b'}') {
                break;
            }
            self.expect(b',', "a comma or a closing brace was expected")?;
            self.space();
        }
        match repeated(&members) {
            Some((index, name)) => {
                self.at = places.get(index).copied().unwrap_or(self.at);
                Err(self.fault("a member name appears twice").within(name))
            }
            None => Ok(Json::Object(members)),
        }
    }

    fn number(&mut self) -> Result<Json, Fault> {
        let start = self.at;
        self.take(b'-');
        if self.take(b'0') {
            if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                return Err(self.fault("a number must not begin with a zero"));
            }
        } else {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let text = self.input.get(start..self.at).and_then(|text| std::str::from_utf8(text).ok());
        Ok(Json::Number(text.unwrap_or_default().to_owned()))
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        match (count, self.peek()) {
            (0, None) => Err(self.ended()),
            (0, Some(_)) => Err(self.fault("a digit was expected")),
            _ => Ok(()),
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        self.expect(b'"', "a string was expected")?;
        let mut text = String::new();
        loop {
            let rest = self.rest();
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
            let (plain, after) = rest.split_at(plain);
            match std::str::from_utf8(plain) {
                // Most strings have one part.
                Ok(plain) if text.is_empty() => text = String::from(plain),
                Ok(plain) => text.push_str(plain),
                Err(error) => {
                    self.at += error.valid_up_to();
                    return Err(self.fault("a string is not valid UTF-8"));
                }
            }
            self.at += plain.len();
            match after.first() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return Err(self.fault("a control character in a string must be escaped")),
                None => return Err(self.ended()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let start = self.at;
        self.at += 1;
        let Some(letter) = self.peek() else { return Err(self.ended()) };
        self.at += 1;
        Ok(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex()?;
                let code = match unit {
                    0xD800..0xDC00 if self.rest().starts_with(b"\\u") => {
                        self.at += 2;
                        match self.hex()? {
                            low @ 0xDC00..0xE000 => 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00),
                            _ => unit,
                        }
                    }
                    _ => unit,
                };
                // A surrogate, the only code that is no character, stands alone here.
                return char::from_u32(code).ok_or_else(|| {
                    self.at = start;
                    self.fault("an escape is half of a surrogate pair")
                });
            }
            _ => {
                self.at = start;
                return Err(self.fault("an escape is not one that JSON knows"));
            }
        })
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(byte) = self.peek() else { return Err(self.ended()) };
            let Some(digit) = char::from(byte).to_digit(16) else {
                return Err(self.fault("four hexadecimal digits were expected"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    fn rest(&self) -> &'a [u8] {
        self.input.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn expect(&mut self, byte: u8, otherwise: &str) -> Result<(), Fault> {
        if self.take(byte) {
            Ok(())
        } else if self.peek().is_none() {
            Err(self.ended())
        } else {
            Err(self.fault(otherwise))
        }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn ended(&self) -> Fault {
        self.fault("the document ends too early")
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault { message: message.into(), at: self.at, path: Vec::new() }
    }

    fn explain(&self, fault: Fault) -> JsonError {
        let before = self.input.get(..fault.at).unwrap_or(self.input);
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = before.split(|byte| *byte == b'\n').count();
        // Continuation octets are no characters of their own.
        let continues = |byte: &u8| *byte & 0xC0 == 0x80;
        let column = before.iter().skip(line_start).filter(|byte| !continues(byte)).count() + 1;
        let mut pointer = String::from("#");
        for name in fault.path.iter().rev() {
            push_pointer(&mut pointer, name);
        }
        pointer.truncate(1000);
        JsonError { message: fault.message, line, column, pointer }
    }
}

impl Fault {
    fn within(mut self, name: &str) -> Self {
        self.path.push(name.to_owned());
        self
    }
}

/// The second of two members with one name.
fn repeated(members: &[(String, Json)]) -> Option<(usize, &str)> {
    let mut names: Vec<(&str, usize)> = members.iter().enumerate().map(|(at, (name, _))| (name.as_str(), at)).collect();
    names.sort_unstable();
    let pairs = names.iter().zip(names.iter().skip(1));
    pairs.filter(|(one, other)| one.0 == other.0).map(|(_, other)| (other.1, other.0)).min()
}

/// Appends `/name` to a JSON Pointer in a URI fragment (RFC 6901, sections 4 and 6).
pub fn push_pointer(pointer: &mut String, name: &str) {
    const HEX: &[char; 16] = &['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    pointer.push('/');
    for byte in name.bytes() {
        match byte {
            b'~' => pointer.push_str("~0"),
            b'/' => pointer.push_str("~1"),
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'!'
            | b'$'
            | b'&'
            | b'\''
            | b'('
            | b')'
            | b'*'
            | b'+'
            | b','
            | b';'
            | b'='
            | b':'
            | b'@'
            | b'?' => pointer.push(char::from(byte)),
            _ => {
                pointer.push('%');
                pointer.extend(HEX.get(usize::from(byte >> 4)));
                pointer.extend(HEX.get(usize::from(byte & 15)));
            }
        }
    }
}

impl Json {
    /// Appends the value as compact JSON, numbers and the order of members as sent.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(text) => out.push_str(text),
            Self::String(text) => push_json_string(out, text),
            Self::Array(items) => write_array(out, items, Self::write),
            Self::Object(members) => write_object(out, members, Self::write),
        }
    }

    /// Appends the value as PostgreSQL's `jsonb` keeps it, white space apart: shorter names first, then by octet, and
    /// numbers in plain notation. SQLite stores this form, so that both databases answer alike.
    pub fn write_canonical(&self, out: &mut String) {
        match self {
            Self::Number(text) => match plain_number(text) {
                Some(plain) => out.push_str(&plain),
                None => out.push_str(text),
            },
            Self::Array(items) => write_array(out, items, Self::write_canonical),
            Self::Object(members) => {
                let mut sorted: Vec<&(String, Self)> = members.iter().collect();
                sorted.sort_unstable_by_key(|(name, _)| (name.len(), name.as_bytes()));
                write_object(out, sorted, Self::write_canonical);
            }
            other => other.write(out),
        }
    }

    /// Appends what tells the value from others, whatever the form it was sent in: members by name, and of a number its digits
    /// and its magnitude. No longer than what was sent, but for a few octets for each number.
    pub fn write_value(&self, out: &mut String) {
        match self {
            Self::Number(text) => push_number_value(out, text),
            Self::Array(items) => write_array(out, items, Self::write_value),
            Self::Object(members) => {
                let mut sorted: Vec<&(String, Self)> = members.iter().collect();
                sorted.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                write_object(out, sorted, Self::write_value);
            }
            other => other.write(out),
        }
    }

    /// The member of an object with that name.
    pub fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(other, _)| other == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

/// Compact JSON.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

fn write_array(out: &mut String, items: &[Json], write: fn(&Json, &mut String)) {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(']');
}

fn write_object<'a>(
    out: &mut String,
    members: impl IntoIterator<Item = &'a (String, Json)>,
    write: fn(&Json, &mut String),
) {
    out.push('{');
    for (at, (name, value)) in members.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        push_json_string(out, name);
        out.push(':');
        write(value, out);
    }
    out.push('}');
}

/// A number by its value: significant digits and the power of ten of the last one. One whose exponent is beyond any
/// reckoning, as it is.
fn push_number_value(out: &mut String, text: &str) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let Ok(exponent) = exponent.parse::<i32>() else { return out.push_str(text) };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let kept = digits.trim_end_matches('0');
    let count = |octets: usize| i64::try_from(octets).unwrap_or(i64::MAX);
    let power = i64::from(exponent) - count(fraction.len()) + count(digits.len() - kept.len());
    match kept.trim_start_matches('0') {
        "" => out.push('0'),
        digits => out.extend([sign, digits, "e", &power.to_string()]),
    }
}

/// A JSON number in plain notation, with the fraction digits that PostgreSQL keeps; `None` when that takes more than
/// [`MAX_NUMBER_DIGITS`].
pub fn plain_number(text: &str) -> Option<String> {
    let (negative, magnitude) = text.strip_prefix('-').map_or((false, text), |magnitude| (true, magnitude));
    let (mantissa, exponent) = magnitude.split_once(['e', 'E']).unwrap_or((magnitude, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let limit = i64::try_from(MAX_NUMBER_DIGITS).unwrap_or(i64::MAX);
    let exponent: i64 = exponent.parse().ok().filter(|exponent: &i64| exponent.abs() <= limit)?;
    let scale = usize::try_from(i64::try_from(fraction.len()).ok()? - exponent).unwrap_or(0);
    // Where the point stands in `digits`, counted from the left; may lie outside.
    let point = i64::try_from(whole.len()).ok()? + exponent;
    let before = usize::try_from(point).unwrap_or(0);
    if before.max(digits.len()) + scale > MAX_NUMBER_DIGITS * 2 {
        return None;
    }
    let zero = digits.bytes().all(|byte| byte == b'0');
    let mut plain: String = digits.chars().chain(std::iter::repeat('0')).take(before).collect();
    let kept = plain.trim_start_matches('0').len();
    plain.drain(..plain.len() - kept);
    if plain.is_empty() {
        plain.push('0');
    }
    if scale > 0 {
        plain.push('.');
        plain.extend(std::iter::repeat_n('0', usize::try_from(-point).unwrap_or(0)));
        plain.push_str(digits.get(before..).unwrap_or_default());
    }
    if plain.len() - usize::from(scale > 0) > MAX_NUMBER_DIGITS {
        return None;
    }
    if negative && !zero {
        plain.insert(0, '-');
    }
    Some(plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fails(input: &str) -> JsonError {
        parse(input.as_bytes(), MAX_DEPTH).unwrap_err()
    }

    #[test]
    fn reads_what_is_json() {
        for text in [
            "null",
            " true ",
            "[]",
            "{}",
            "-0",
            "0.5",
            "1e400",
            "-1.25E-7",
            "123456789012345678901234567890",
            r#"["a\n\"\\\/é€😀",{"a":{"b":[1,2,{}]}}]"#,
            "\"\\ud83d\\ude00\"",
            "\"\u{7f}\u{2028}\"",
        ] {
            let read = parse(text.as_bytes(), MAX_DEPTH).unwrap();
            let ours: serde_json::Value = match serde_json::from_str(text) {
                Ok(theirs) => theirs,
                // serde_json has no number for it.
                Err(_) => continue,
            };
            assert_eq!(serde_json::from_str::<serde_json::Value>(&read.to_string()).unwrap(), ours, "{text}");
        }
        assert_eq!(parse(b"\"\\u0000\"", 1).unwrap(), Json::String("\0".to_owned()));
        assert_eq!(parse(b"1e400", 1).unwrap(), Json::Number("1e400".to_owned()));
    }

    #[test]
    fn values_are_told_apart_and_nothing_else() {
        let value = |text: &str| {
            let mut out = String::new();
            parse(text.as_bytes(), MAX_DEPTH).unwrap().write_value(&mut out);
            out
        };
        let same = [
            &["100", "1e2", "1.00E+2", "100.0", "1000e-1"][..],
            &["0", "-0", "0.000", "0e9", "-0.0e-3"],
            &["-1.5", "-15e-1", "-0.15e1"],
            &["1e399", "10e398"],
            &[
                r#"{"a":1,"b":[true,null]}"#,
                r#" { "b" : [ true , null ], "a": 1.0 } "#,
                r#"{"\u0061":1,"b":[true,null]}"#,
            ],
        ];
        for texts in same {
            for text in texts {
                assert_eq!(value(text), value(texts[0]), "{text}");
            }
        }
        let different = [
            "1",
            "10",
            "-1",
            "\"1\"",
            "0.1",
            "1e-2",
            "1e99999999999",
            "1e99999999998",
            "[1]",
            "{\"a\":1}",
            "{\"a\":\"1e0\"}",
        ];
        for (at, text) in different.iter().enumerate() {
            assert!(different[..at].iter().all(|other| value(other) != value(text)), "{text}");
        }
        assert!(value(&"1e399,".repeat(3).replace(',', " ")[..5]).len() < 10, "it is not written out");
    }

    #[test]
    fn says_where_it_is_wrong() {
        for (text, message, line, column, pointer) in [
            ("", "the document is empty", 1, 1, "#"),
            ("  \n ", "the document is empty", 2, 2, "#"),
            ("\u{feff}{}", "the document must not begin with a byte order mark", 1, 1, "#"),
            ("{\"a\": 1,\n \"é\": nul}", "a JSON value was expected", 2, 7, "#/%C3%A9"),
            ("{\"a\": [1, 2 3]}", "a comma or a closing bracket was expected", 1, 13, "#/a"),
            ("{\"a\": [1, 2,]}", "a JSON value was expected", 1, 13, "#/a/2"),
            ("{\"a\" 1}", "a colon was expected", 1, 6, "#/a"),
            ("{a: 1}", "a member name in double quotes was expected", 1, 2, "#"),
            ("{\"a\": 1,}", "a member name in double quotes was expected", 1, 9, "#"),
            ("{\"a\": 1 \"b\"}", "a comma or a closing brace was expected", 1, 9, "#"),
            ("{\"a\": {\"b/~ \": 1", "the document ends too early", 1, 17, "#/a"),
            ("{\"a\": {\"b/~ \": tru", "a JSON value was expected", 1, 16, "#/a/b~1~0%20"),
            ("1 2", "the document goes on after its value", 1, 3, "#"),
            ("NaN", "a JSON value was expected", 1, 1, "#"),
            ("01", "a number must not begin with a zero", 1, 2, "#"),
            ("[-]", "a digit was expected", 1, 3, "#/0"),
            ("[1.]", "a digit was expected", 1, 4, "#/0"),
            ("[1e+]", "a digit was expected", 1, 5, "#/0"),
            ("1.", "the document ends too early", 1, 3, "#"),
            ("\"a\tb\"", "a control character in a string must be escaped", 1, 3, "#"),
            ("\"a\\x\"", "an escape is not one that JSON knows", 1, 3, "#"),
            ("\"\\u12g4\"", "four hexadecimal digits were expected", 1, 6, "#"),
            ("\"\\ud800\"", "an escape is half of a surrogate pair", 1, 2, "#"),
            ("\"\\udc00\\ud800\"", "an escape is half of a surrogate pair", 1, 2, "#"),
            ("\"\\ud800\\u0041\"", "an escape is half of a surrogate pair", 1, 2, "#"),
            ("\"\\ud800\\n\"", "an escape is half of a surrogate pair", 1, 2, "#"),
            ("[{\"a\":1,\"b\":2,\"a\":3}]", "a member name appears twice", 1, 15, "#/0/a"),
            ("{\"a\":1,\"\\u0061\":3}", "a member name appears twice", 1, 8, "#/a"),
        ] {
            let error = fails(text);
            assert_eq!(
                (error.message.as_str(), error.line, error.column, error.pointer.as_str()),
                (message, line, column, pointer),
                "{text}"
            );
        }
        let error = parse(b"{\"a\":\"x\xff\"}", MAX_DEPTH).unwrap_err();
        assert_eq!(error.to_string(), "a string is not valid UTF-8, at line 1, column 8 (`#/a`)");
        for octets in [&b"\"\xc0\x80\""[..], b"\"\xed\xa0\x80\"", b"\xff", b"\"\xf4\x90\x80\x80\""] {
            assert!(parse(octets, MAX_DEPTH).is_err());
        }
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(64).as_bytes(), 64).is_ok());
        assert_eq!(fails(&nested(65)).message, "the document is nested more than 64 levels deep");
        assert_eq!(fails(&nested(65)).column, 65);
        assert!(parse(&b"[".repeat(1_000_000), MAX_DEPTH).is_err());
        assert!(parse(&b"{\"a\":".repeat(10_000), MAX_DEPTH).is_err());
        let long = format!("{{\"{}\":", "é".repeat(2000)).repeat(3);
        assert!(fails(&long).pointer.len() <= 1000);
    }

    #[test]
    fn numbers_in_plain_notation() {
        for (sent, plain) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.00", "0.00"),
            ("1.50", "1.50"),
            ("1.50e1", "15.0"),
            ("1.5e1", "15"),
            ("15E+3", "15000"),
            ("1e-2", "0.01"),
            ("-12.5e-3", "-0.0125"),
            ("0e5", "0"),
            ("0e-3", "0.000"),
            ("0.001e2", "0.1"),
            ("0.001e5", "100"),
        ] {
            assert_eq!(plain_number(sent).as_deref(), Some(plain), "{sent}");
        }
        assert_eq!(plain_number("1e399").unwrap().len(), 400);
        for refused in ["1e400", "1e999999999999999999999", "1e-999999999", "1e-400", "0e-401"] {
            assert_eq!(plain_number(refused), None, "{refused}");
        }
        assert!(plain_number("4.9406564584124654e-324").is_some());
    }

    #[test]
    fn canonical_form_sorts_by_length_then_octet() {
        let json = parse(r#"{"bb":1,"a":{"z":1,"é":2},"B":[3e0]}"#.as_bytes(), MAX_DEPTH).unwrap();
        let mut out = String::new();
        json.write_canonical(&mut out);
        assert_eq!(out, r#"{"B":[3],"a":{"z":1,"é":2},"bb":1}"#);
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(Into::into),
            ".*".prop_map(serde_json::Value::String),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::vec((".*", inner), 0..8)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(tree in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&tree).unwrap() } else { tree.to_string() };
            let ours = parse(text.as_bytes(), MAX_DEPTH).unwrap();
            prop_assert_eq!(ours.to_string(), tree.to_string());
        }

        #[test]
        fn never_panics_and_accepts_no_more_than_serde_json(octets in prop::collection::vec(any::<u8>(), 0..64)) {
            if parse(&octets, MAX_DEPTH).is_ok() {
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&octets).is_ok());
            }
        }

        #[test]
        fn agrees_on_what_is_json(text in r#"[\[\]{}:,"\\u0-9a-fA-F.eE+\-tnl ]{0,24}"#) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            match parse(text.as_bytes(), MAX_DEPTH) {
                Ok(_) => prop_assert!(theirs),
                Err(error) => prop_assert!(
                    !theirs || error.message.contains("twice") || error.message.contains("surrogate"),
                    "{} {}", text, error
                ),
            }
        }
    }
}
