//! CBOR (RFC 8949) in and out, with the same shapes as JSON.
//!
//! In: maps with text keys, arrays, text, integers, finite floats, booleans, null, and numbers that need more room as
//! bignums (tags 2 and 3) or decimal fractions (tag 4). Definite and indefinite lengths are both fine. Byte strings,
//! other tags, `undefined` and other simple values have no counterpart in JSON and are refused; octets travel as
//! base64 text, as in JSON.
//!
//! Out: definite lengths, shortest forms. A number is an integer, else a float where it is a float's shortest decimal
//! form, else a bignum or a decimal fraction, so that no digit is lost.

use std::collections::HashSet;

use ciborium_ll::{Decoder, Encoder, Header, simple};
use cratestack_engine::json::{Json, MAX_DEPTH};

/// Significant digits of a number outside of 64 bits, in both directions.
const DIGITS: usize = 1000;
/// Octets that 1000 digits need.
const BIGNUM: usize = 416;

/// Octets: one, and an argument of 64 bits.
const LONGEST_HEADER: usize = 9;

const POSITIVE_BIGNUM: u64 = 2;
const NEGATIVE_BIGNUM: u64 = 3;
const DECIMAL_FRACTION: u64 = 4;

/// Why a body is no CBOR that the service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Offset in octets.
    pub(crate) at: usize,
    /// What is wrong, without a subject.
    pub(crate) what: &'static str,
}

/// Reads exactly one value.
pub(crate) fn decode(body: &[u8]) -> Result<Json, Malformed> {
    let mut reader = Reader { body, at: 0 };
    let value = reader.value(0)?;
    if reader.at == body.len() { Ok(value) } else { Err(reader.malformed("something follows the value")) }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }

    fn rest(&self) -> &'a [u8] {
        self.body.get(self.at..).unwrap_or_default()
    }

    /// The next header. `at` moves behind it.
    fn header(&mut self) -> Result<Header, Malformed> {
        let mut decoder = Decoder::from(self.rest());
        let header = decoder.pull().map_err(|error| match error {
            ciborium_ll::Error::Io(_) => self.malformed("the body ends within a value"),
            ciborium_ll::Error::Syntax(_) => self.malformed("this is no item"),
        })?;
        self.at += decoder.offset();
        Ok(header)
    }

    fn octets(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let Some(octets) = self.rest().get(..length) else {
            return Err(self.malformed("the body ends within a string"));
        };
        self.at += length;
        Ok(octets)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let at = self.at;
        std::str::from_utf8(self.octets(length)?).map_err(|_| Malformed { at, what: "the text is not valid UTF-8" })
    }

    /// A text of which the header is read: whole, or in chunks that end with a break.
    fn string(&mut self, length: Option<usize>) -> Result<String, Malformed> {
        if let Some(length) = length {
            return self.text(length).map(str::to_owned);
        }
        let mut text = String::new();
        loop {
            match self.header()? {
                Header::Text(Some(length)) => text.push_str(self.text(length)?),
                Header::Break => return Ok(text),
                _ => return Err(self.malformed("a text is made of something else than texts")),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, Malformed> {
        let start = self.at;
        let header = self.header()?;
        self.item(header, start, depth)
    }

    fn item(&mut self, header: Header, start: usize, depth: usize) -> Result<Json, Malformed> {
        let refused = |what| Err(Malformed { at: start, what });
        if matches!(header, Header::Array(_) | Header::Map(_)) && depth >= MAX_DEPTH {
            return refused("arrays and maps are nested too deep");
        }
        match header {
            Header::Positive(_) | Header::Negative(_) | Header::Tag(POSITIVE_BIGNUM | NEGATIVE_BIGNUM) => {
                self.integer(header, start).map(Json::Number)
            }
            Header::Tag(DECIMAL_FRACTION) => self.decimal_fraction(start).map(Json::Number),
            Header::Float(float) if float.is_finite() => Ok(Json::Number(format!("{float:?}"))),
            Header::Float(_) => refused("a float is not a finite number"),
            Header::Simple(simple::FALSE) => Ok(Json::Bool(false)),
            Header::Simple(simple::TRUE) => Ok(Json::Bool(true)),
            Header::Simple(simple::NULL) => Ok(Json::Null),
            Header::Simple(_) => refused("the only simple values are false, true and null"),
            Header::Text(length) => self.string(length).map(Json::String),
            Header::Array(length) => self.array(length, depth),
            Header::Map(length) => self.map(length, depth),
            Header::Bytes(_) => refused("a byte string stands for nothing here: send base64 text"),
            Header::Tag(_) => refused("the only tags are 2, 3 and 4 (numbers)"),
            Header::Break => refused("a break stands outside of anything that it could end"),
        }
    }

    fn array(&mut self, length: Option<usize>, depth: usize) -> Result<Json, Malformed> {
        // Nothing is reserved for a length that is only claimed.
        let mut items = Vec::new();
        while length != Some(items.len()) {
            let start = self.at;
            match self.header()? {
                Header::Break if length.is_none() => break,
                header => items.push(self.item(header, start, depth + 1)?),
            }
        }
        Ok(Json::Array(items))
    }

    fn map(&mut self, length: Option<usize>, depth: usize) -> Result<Json, Malformed> {
        let mut members = Vec::new();
        let mut names = HashSet::new();
        while length != Some(members.len()) {
            let start = self.at;
            let name = match self.header()? {
                Header::Break if length.is_none() => break,
                Header::Text(length) => self.string(length)?,
                _ => {
                    return Err(Malformed { at: start, what: "the key of a map is no text" });
                }
            };
            if !names.insert(name.clone()) {
                return Err(Malformed { at: start, what: "a key stands twice in one map" });
            }
            members.push((name, self.value(depth + 1)?));
        }
        Ok(Json::Object(members))
    }

    /// An integer of which the header is read, as JSON number text.
    fn integer(&mut self, header: Header, start: usize) -> Result<String, Malformed> {
        match header {
            Header::Positive(number) => Ok(number.to_string()),
            Header::Negative(number) => Ok((-1 - i128::from(number)).to_string()),
            Header::Tag(tag @ (POSITIVE_BIGNUM | NEGATIVE_BIGNUM)) => {
                let Header::Bytes(Some(length)) = self.header()? else {
                    return Err(Malformed { at: start, what: "a bignum is no byte string of a given length" });
                };
                let octets = self.octets(length)?;
                let octets = octets.get(octets.iter().take_while(|octet| **octet == 0).count()..).unwrap_or_default();
                if octets.len() > BIGNUM {
                    return Err(Malformed { at: start, what: "a number has too many digits" });
                }
                let mut octets = octets.to_vec();
                if tag == POSITIVE_BIGNUM {
                    return Ok(digits_of(&octets));
                }
                increment(&mut octets);
                Ok(format!("-{}", digits_of(&octets)))
            }
            _ => Err(Malformed { at: start, what: "this is no integer" }),
        }
    }

    fn decimal_fraction(&mut self, start: usize) -> Result<String, Malformed> {
        if self.header()? != Header::Array(Some(2)) {
            return Err(Malformed { at: start, what: "a decimal fraction is no array of exponent and mantissa" });
        }
        let exponent = match self.header()? {
            header @ (Header::Positive(_) | Header::Negative(_)) => self.integer(header, start)?,
            _ => {
                return Err(Malformed { at: start, what: "the exponent of a decimal fraction is no integer" });
            }
        };
        let header = self.header()?;
        let mantissa = self.integer(header, start)?;
        Ok(format!("{mantissa}e{exponent}"))
    }
}

/// Adds one to a big-endian number.
fn increment(octets: &mut Vec<u8>) {
    for octet in octets.iter_mut().rev() {
        let (sum, overflow) = octet.overflowing_add(1);
        *octet = sum;
        if !overflow {
            return;
        }
    }
    octets.insert(0, 1);
}

/// Takes one from a big-endian number that is not zero.
fn decrement(octets: &mut [u8]) {
    for octet in octets.iter_mut().rev() {
        let (difference, overflow) = octet.overflowing_sub(1);
        *octet = difference;
        if !overflow {
            return;
        }
    }
}

/// Big-endian octets as decimal digits.
fn digits_of(octets: &[u8]) -> String {
    // Little-endian, so that new digits go to the end.
    let mut digits = vec![0u8];
    for octet in octets {
        let mut carry = u16::from(*octet);
        for digit in &mut digits {
            let sum = u16::from(*digit) * 256 + carry;
            *digit = u8::try_from(sum % 10).unwrap_or_default();
            carry = sum / 10;
        }
        while carry > 0 {
            digits.push(u8::try_from(carry % 10).unwrap_or_default());
            carry /= 10;
        }
    }
    digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect()
}

/// Decimal digits as big-endian octets without leading zeros.
fn octets_of(digits: &str) -> Vec<u8> {
    // Little-endian, so that new octets go to the end.
    let mut octets = Vec::new();
    for digit in digits.bytes() {
        let mut carry = u16::from(digit - b'0');
        for octet in &mut octets {
            let [high, low] = (u16::from(*octet) * 10 + carry).to_be_bytes();
            *octet = low;
            carry = u16::from(high);
        }
        if carry > 0 {
            octets.push(u8::try_from(carry).unwrap_or_default());
        }
    }
    octets.reverse();
    octets
}

/// Why an answer cannot be CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unencodable {
    /// A number has more than 1000 significant digits, or an exponent outside of 64 bits.
    Number,
    /// The text is no JSON: a bug of whoever made it.
    NotJson,
}

/// Translates JSON text that this program made itself. Neither tree nor recursion: the depth of an answer has no bound
/// of its own.
pub(crate) fn from_json(text: &str) -> Result<Vec<u8>, Unencodable> {
    let mut lengths = lengths(text).into_iter();
    let mut out = Vec::with_capacity(text.len());
    for token in (Tokens { text }) {
        match token {
            Token::Open(b'{') => push(&mut out, Header::Map(lengths.next())),
            Token::Open(_) => push(&mut out, Header::Array(lengths.next())),
            Token::String(raw) => {
                let text: String = serde_json::from_str(raw).map_err(|_| Unencodable::NotJson)?;
                push(&mut out, Header::Text(Some(text.len())));
                out.extend_from_slice(text.as_bytes());
            }
            Token::Word("true") => push(&mut out, Header::Simple(simple::TRUE)),
            Token::Word("false") => push(&mut out, Header::Simple(simple::FALSE)),
            Token::Word("null") => push(&mut out, Header::Simple(simple::NULL)),
            Token::Word(number) => encode_number(number, &mut out)?,
            Token::Close | Token::Comma | Token::Colon => {}
        }
    }
    Ok(out)
}

fn push(out: &mut Vec<u8>, header: Header) {
    let mut room = [0; LONGEST_HEADER];
    let mut free = room.as_mut_slice();
    // Every header fits, so that writing it has no way to fail.
    let _ = Encoder::from(&mut free).push(header);
    let used = LONGEST_HEADER - free.len();
    out.extend_from_slice(room.get(..used).unwrap_or_default());
}

/// The number of members of each array and object, in the order in which they open.
fn lengths(text: &str) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut open = Vec::new();
    let mut fresh = false;
    for token in (Tokens { text }) {
        let member = fresh && !matches!(token, Token::Close) || matches!(token, Token::Comma);
        if let Some(length) = open.last().and_then(|at: &usize| lengths.get_mut(*at)).filter(|_| member) {
            *length += 1;
        }
        fresh = matches!(token, Token::Open(_));
        match token {
            Token::Open(_) => {
                open.push(lengths.len());
                lengths.push(0);
            }
            Token::Close => {
                open.pop();
            }
            _ => {}
        }
    }
    lengths
}

/// The tokens of JSON text that is known to be well-formed.
struct Tokens<'a> {
    text: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// `{` or `[`.
    Open(u8),
    Close,
    Comma,
    Colon,
    /// With its quotes and escapes.
    String(&'a str),
    /// A number or a literal.
    Word(&'a str),
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let text = self.text.trim_ascii_start();
        let first = *text.as_bytes().first()?;
        let length = match first {
            b'"' => string_length(text.as_bytes()),
            b'{' | b'[' | b'}' | b']' | b',' | b':' => 1,
            _ => text.find([',', ':', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(text.len()),
        };
        let (token, rest) = text.split_at_checked(length)?;
        self.text = rest;
        Some(match first {
            b'{' | b'[' => Token::Open(first),
            b'}' | b']' => Token::Close,
            b',' => Token::Comma,
            b':' => Token::Colon,
            b'"' => Token::String(token),
            _ => Token::Word(token),
        })
    }
}

/// The length of the string that `text` begins with, quotes included.
fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let end = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        end
    });
    end.map_or(text.len(), |end| end + 2)
}

/// A number as an item that holds it exactly.
fn encode_number(text: &str, out: &mut Vec<u8>) -> Result<(), Unencodable> {
    if let Some(header) = text.parse::<i128>().ok().and_then(native_integer) {
        push(out, header);
        return Ok(());
    }
    let (negative, magnitude) = signed(text);
    if magnitude.bytes().all(|byte| byte.is_ascii_digit()) {
        return encode_integer(negative, magnitude, out);
    }
    let float: f64 = text.parse().map_err(|_| Unencodable::NotJson)?;
    let number = Parts::of(text)?;
    if float.is_finite() && number.is_printed_for(float) {
        push(out, Header::Float(float));
        return Ok(());
    }
    push(out, Header::Tag(DECIMAL_FRACTION));
    push(out, Header::Array(Some(2)));
    push(out, native_integer(i128::from(number.exponent)).ok_or(Unencodable::Number)?);
    encode_integer(number.negative, &number.digits, out)
}

/// An integer of any size.
fn encode_integer(negative: bool, digits: &str, out: &mut Vec<u8>) -> Result<(), Unencodable> {
    if digits.len() > DIGITS {
        return Err(Unencodable::Number);
    }
    let sign = if negative { "-" } else { "" };
    if let Some(header) = format!("{sign}{digits}").parse::<i128>().ok().and_then(native_integer) {
        push(out, header);
        return Ok(());
    }
    let mut octets = octets_of(digits);
    if negative {
        decrement(&mut octets);
    }
    push(out, Header::Tag(if negative { NEGATIVE_BIGNUM } else { POSITIVE_BIGNUM }));
    push(out, Header::Bytes(Some(octets.len())));
    out.extend_from_slice(&octets);
    Ok(())
}

fn signed(text: &str) -> (bool, &str) {
    text.strip_prefix('-').map_or((false, text), |magnitude| (true, magnitude))
}

fn native_integer(number: i128) -> Option<Header> {
    match u64::try_from(number) {
        Ok(number) => Some(Header::Positive(number)),
        Err(_) => u64::try_from(-1 - number).ok().map(Header::Negative),
    }
}

/// A decimal number: `digits` times ten to the `exponent`. Equal numbers have equal parts.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    negative: bool,
    /// Without leading or trailing zeros; `0` for zero.
    digits: String,
    exponent: i64,
}

impl Parts {
    /// Takes a JSON number apart.
    fn of(text: &str) -> Result<Self, Unencodable> {
        let (negative, text) = signed(text);
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent: i64 = exponent.parse().map_err(|_| Unencodable::Number)?;
        let all = format!("{whole}{fraction}");
        if !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Unencodable::NotJson);
        }
        let digits = all.trim_end_matches('0');
        let shift = i64::try_from(all.len() - digits.len()).ok().zip(i64::try_from(fraction.len()).ok());
        let exponent = shift.and_then(|(zeros, fraction)| exponent.checked_add(zeros)?.checked_sub(fraction));
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Ok(Self { negative, digits: "0".to_owned(), exponent: 0 });
        }
        Ok(Self { negative, digits: digits.to_owned(), exponent: exponent.ok_or(Unencodable::Number)? })
    }

    /// Whether the number, which `float` was parsed from, is one of its shortest decimal forms, so that the float stands
    /// for it. Where several forms are equally short, programs differ in which they print.
    fn is_printed_for(&self, float: f64) -> bool {
        let shortest = Self::of(&format!("{float:e}")).map_or(0, |shortest| shortest.digits.len());
        // What is too small for a float is parsed as zero.
        self.digits.len() == shortest && (float != 0.0 || self.digits == "0")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use ciborium::Value as Cbor;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    fn number(text: &str) -> Json {
        Json::Number(text.to_owned())
    }

    #[test]
    fn takes() {
        // Mostly from RFC 8949, appendix A.
        let text = |text: &str| Json::String(text.to_owned());
        let table = [
            ("00", number("0")),
            ("1bffffffffffffffff", number("18446744073709551615")),
            ("3bffffffffffffffff", number("-18446744073709551616")),
            ("c249010000000000000000", number("18446744073709551616")),
            ("c349010000000000000000", number("-18446744073709551617")),
            ("c240", number("0")),
            ("c340", number("-1")),
            ("c243000003", number("3")),
            ("f90000", number("0.0")),
            ("f93c00", number("1.0")),
            ("fb3ff199999999999a", number("1.1")),
            ("fb7e37e43c8800759c", number("1e300")),
            ("fbc010666666666666", number("-4.1")),
            ("c48221196ab3", number("27315e-2")),
            ("c4820a20", number("-1e10")),
            ("f4", Json::Bool(false)),
            ("f5", Json::Bool(true)),
            ("f6", Json::Null),
            ("60", text("")),
            ("62c3bc", text("ü")),
            ("7f657374726561646d696e67ff", text("streaming")),
            ("7fff", text("")),
            ("80", Json::Array(vec![])),
            ("9fff", Json::Array(vec![])),
            ("9f01820203ff", Json::Array(vec![number("1"), Json::Array(vec![number("2"), number("3")])])),
            ("a0", Json::Object(vec![])),
            ("bf6161f6ff", Json::Object(vec![("a".to_owned(), Json::Null)])),
            ("a26162016161f6", Json::Object(vec![("b".to_owned(), number("1")), ("a".to_owned(), Json::Null)])),
        ];
        for (hex, expected) in table {
            assert_eq!(decode(&bytes(hex)), Ok(expected), "{hex}");
        }
    }

    #[test]
    fn refuses() {
        let table = [
            ("", 0, "ends within"),
            ("18", 0, "ends within"),
            ("1c", 0, "no item"),
            ("0000", 1, "something follows"),
            ("61", 1, "ends within a string"),
            ("7bffffffffffffffff", 9, "ends within a string"),
            ("61ff", 1, "UTF-8"),
            ("7f61c361bcff", 2, "UTF-8"),
            ("7f4161ff", 2, "something else than texts"),
            ("7f7fff", 2, "something else than texts"),
            ("4161", 0, "byte string"),
            ("5f4161ff", 0, "byte string"),
            ("f7", 0, "simple values"),
            ("f0", 0, "simple values"),
            ("f97e00", 0, "finite"),
            ("f97c00", 0, "finite"),
            ("fbfff0000000000000", 0, "finite"),
            ("c074323031332d30332d32315432303a30343a30305a", 0, "tags"),
            ("d9d9f700", 0, "tags"),
            ("c200", 0, "bignum"),
            ("c25f4101ff", 0, "bignum"),
            ("c48100", 0, "exponent and mantissa"),
            ("c4820061", 0, "no integer"),
            ("c482f90000", 0, "exponent"),
            ("a10102", 1, "no text"),
            ("a2616101616102", 4, "twice"),
            ("bf616101616102ff", 4, "twice"),
            ("bf6161ff", 3, "break"),
            ("ff", 0, "break"),
            ("81ff", 1, "break"),
            ("8201", 2, "ends within"),
            ("9bffffffffffffffff", 9, "ends within"),
            ("bbffffffffffffffff", 9, "ends within"),
        ];
        for (hex, at, what) in table {
            let refusal = decode(&bytes(hex)).unwrap_err();
            assert_eq!(refusal.at, at, "{hex}: {refusal:?}");
            assert!(refusal.what.contains(what), "{hex}: {refusal:?}");
        }
        let long = [bytes("c2590200"), vec![0xff; 512]].concat();
        assert!(decode(&long).unwrap_err().what.contains("too many digits"));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| [vec![0x81; depth], vec![0x00]].concat();
        assert!(decode(&nested(MAX_DEPTH)).is_ok());
        assert!(decode(&nested(MAX_DEPTH + 1)).unwrap_err().what.contains("nested"));
        assert!(decode(&vec![0x9f; 1 << 20]).unwrap_err().what.contains("nested"));
        assert!(decode(&vec![0xa1; 1 << 20]).is_err());
    }

    #[test]
    fn translates() {
        let table = [
            ("null", "f6"),
            (" [ ] ", "80"),
            ("{}", "a0"),
            ("[1,[2,3],{},[]]", "840182 0203a080"),
            ("[{}]", "81a0"),
            ("{\"a\":{\"b\":[true,false]}}", "a16161a1616282f5f4"),
            ("\"\\u00fc\\\"\\\\\"", "64c3bc225c"),
            ("[\"]\",\"\\\\\"]", "82615d615c"),
            ("18446744073709551615", "1bffffffffffffffff"),
            ("-18446744073709551616", "3bffffffffffffffff"),
            ("1.5", "f93e00"),
            ("1.1", "fb3ff199999999999a"),
            ("1e300", "fb7e37e43c8800759c"),
            ("100.0", "f95640"),
            ("18446744073709551616", "c249010000000000000000"),
            ("18446744073709551617", "c249010000000000000001"),
            ("-18446744073709551617", "c349010000000000000000"),
            ("18446744073709551617e1", "c48201c249010000000000000001"),
            ("0.1000000000000000001", "c482321b0de0b6b3a7640001"),
            ("0.1000000000000000000001", "c48235c2493635c9adc5dea00001"),
            ("1e400", "c48219019001"),
            ("0e99", "f90000"),
        ];
        for (json, hex) in table {
            assert_eq!(from_json(json), Ok(bytes(&hex.replace(' ', ""))), "{json}");
        }
        assert_eq!(from_json(&format!("1.{}1", "0".repeat(1000))), Err(Unencodable::Number));
        assert_eq!(from_json("1e99999999999999999999"), Err(Unencodable::Number));
        assert!(from_json(&"[".repeat(1 << 20)).is_ok());
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn as_json(value: &Cbor) -> serde_json::Value {
        match value {
            Cbor::Null => serde_json::Value::Null,
            Cbor::Bool(value) => (*value).into(),
            Cbor::Integer(value) => i64::try_from(i128::from(*value)).unwrap().into(),
            Cbor::Float(value) => (*value).into(),
            Cbor::Text(value) => value.as_str().into(),
            Cbor::Array(items) => items.iter().map(as_json).collect(),
            Cbor::Map(members) => {
                members.iter().map(|(name, value)| (name.as_text().unwrap().to_owned(), as_json(value))).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = decode(&body);
        }

        #[test]
        fn equally_short_forms_of_a_float_are_floats(whole in 1_000_000_000_000_000u64..2_000_000_000_000_000) {
            // A quarter lies in the middle between two numbers of 17 digits; both are read as the same float.
            for text in [format!("{whole}.2"), format!("{whole}.3")] {
                prop_assert_eq!(from_json(&text).unwrap()[0], 0xfb, "{}", text);
            }
        }

        #[test]
        fn another_implementation_reads_what_is_written(value in any_json()) {
            let out = from_json(&value.to_string()).unwrap();
            let read: Cbor = ciborium::from_reader(out.as_slice()).unwrap();
            prop_assert_eq!(as_json(&read), value);
        }

        #[test]
        fn what_another_implementation_writes_is_read(value in any_json()) {
            let mut body = Vec::new();
            ciborium::into_writer(&value, &mut body).unwrap();
            prop_assert_eq!(from_json(&value.to_string()).unwrap(), body.clone());
            prop_assert!(decode(&body).is_ok());
        }

        #[test]
        fn bignums_keep_every_digit(digits in "[1-9][0-9]{20,60}", negative: bool, exponent in -400i64..400) {
            let sign = if negative { "-" } else { "" };
            let text = format!("{sign}{digits}e{exponent}");
            let Json::Number(read) = decode(&from_json(&text).unwrap()).unwrap() else { panic!("no number") };
            prop_assert_eq!(Parts::of(&read), Parts::of(&text));
        }
    }
}
