//! Cursors: where a page ended, for the caller to bring back.
//!
//! A cursor holds the sort values of the last row of a page. They may be personal, so it is encrypted; and it must not
//! be a way round the rules, so it is authenticated and bound to what it was made for ([`Binding`]): model, filter,
//! sort, tombstones or not, and the caller. Whatever is wrong with a cursor, the answer is the same sentence.
//!
//! Text: unpadded URL-safe base64 of `salt (16) || nonce (12) || AES-256-GCM(time || cuts || values)`. The key of each
//! cursor is HMAC-SHA-256(key, salt), so that random nonces stay safe however many cursors a key makes. The binding is the
//! additional data.
//!
//! A cursor must fit into a URL, and what a page is sorted by need not. Of a long value the cursor holds the beginning
//! and a digest ([`Place`]); whoever opens it reads the value again from the row that the key names.

use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use cratestack_schema::value::Value;

use crate::api::{Code, Failure};
use crate::predicate::successor;

/// Octets of randomness that a cursor takes.
pub const SEED: usize = SALT + NONCE;
const SALT: usize = 16;
const NONCE: usize = 12;
const TIME: usize = 8;

/// How far another node's clock may be ahead, in seconds.
const SKEW: i64 = 300;

/// The longest cursor, in characters: sort values at their longest (of texts and octets 256 octets, a `Decimal`'s
/// digits, a key that an index takes), for as many fields as `sort` has by default.
pub const MAX_CURSOR: usize = 48 * 1024;

/// Octets of a text or of bytes that a cursor holds whole.
const WHOLE: usize = 256;

/// Octets of a digest.
const DIGEST: usize = 32;

/// Where a page ended, as a cursor holds it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Place {
    /// The sort values of the last row.
    pub values: Vec<Value>,
    /// Positions of the values of which only the beginning is there, each with the digest of the whole.
    cuts: Vec<(u8, [u8; DIGEST])>,
}

impl Place {
    /// The place of a row with these sort values. Those at which `whole` is true are never cut.
    pub fn of(values: &[Value], whole: impl Fn(usize) -> bool) -> Self {
        let mut place = Self { values: values.to_vec(), cuts: Vec::new() };
        for (at, value) in place.values.iter_mut().enumerate() {
            let Ok(position) = u8::try_from(at) else { break };
            let long = match value {
                Value::Text(text) => text.len() > WHOLE,
                Value::Bytes(bytes) => bytes.len() > WHOLE,
                _ => false,
            };
            if !long || whole(at) {
                continue;
            }
            place.cuts.push((position, digest_of(value)));
            match value {
                Value::Text(text) => text.truncate(text.floor_char_boundary(WHOLE)),
                Value::Bytes(bytes) => bytes.truncate(WHOLE),
                _ => {}
            }
        }
        place
    }

    /// Whether the values are all there.
    pub fn is_whole(&self) -> bool {
        self.cuts.is_empty()
    }

    /// The whole values, if `values` are those that the place was made of.
    pub fn completed(&self, values: &[Value]) -> Option<Vec<Value>> {
        let same = self.values.len() == values.len()
            && self.values.iter().zip(values).enumerate().all(|(at, (own, other))| match self.cut(at) {
                Some(digest) => digest_of(other) == *digest,
                None => own == other,
            });
        same.then(|| values.to_vec())
    }

    /// Values that no row behind the place comes before, for when nobody knows the whole ones any more: rows that begin
    /// alike may lie on either side.
    pub fn before(&self, descending: impl Fn(usize) -> bool) -> Vec<Value> {
        let bound = |(at, value): (usize, &Value)| match (self.cut(at), value) {
            (Some(_), Value::Text(text)) if descending(at) => successor(text).map_or(Value::Null, Value::Text),
            (Some(_), Value::Bytes(bytes)) if descending(at) => {
                let mut bytes = bytes.clone();
                while bytes.pop_if(|last| *last == u8::MAX).is_some() {}
                let Some(last) = bytes.last_mut() else { return Value::Null };
                *last += 1;
                Value::Bytes(bytes)
            }
            _ => value.clone(),
        };
        self.values.iter().enumerate().map(bound).collect()
    }

    fn cut(&self, at: usize) -> Option<&[u8; DIGEST]> {
        self.cuts.iter().find(|(position, _)| usize::from(*position) == at).map(|(_, digest)| digest)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        // No more than positions have numbers.
        out.push(u8::try_from(self.cuts.len()).unwrap_or(u8::MAX));
        for (at, digest) in self.cuts.iter().take(usize::from(u8::MAX)) {
            out.push(*at);
            out.extend(digest);
        }
        encode(&self.values, out);
    }

    fn decode(octets: &[u8]) -> Option<Self> {
        let (count, mut rest) = octets.split_first()?;
        let mut cuts = Vec::new();
        for _ in 0..*count {
            let (at, behind) = rest.split_first()?;
            let (digest, behind) = behind.split_first_chunk()?;
            cuts.push((*at, *digest));
            rest = behind;
        }
        Some(Self { values: decode(rest)?, cuts })
    }
}

fn digest_of(value: &Value) -> [u8; DIGEST] {
    let mut octets = Vec::new();
    encode(std::slice::from_ref(value), &mut octets);
    let digest = digest::digest(&digest::SHA256, &octets);
    // A SHA-256 has 32 octets.
    digest.as_ref().try_into().unwrap_or_default()
}

/// The keys of a deployment, shared by its nodes. The first makes cursors, all open them: to rotate, put a new key
/// first, and take the old one away when the cursors that it made have expired.
#[derive(Clone)]
pub struct CursorKeys(Vec<[u8; 32]>);

impl std::fmt::Debug for CursorKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CursorKeys({})", self.0.len())
    }
}

/// What a cursor is good for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Binding(Vec<u8>);

impl Binding {
    /// Adds one part. The order of parts matters; their borders cannot be shifted.
    pub fn part(&mut self, part: &str) -> &mut Self {
        self.0.extend((part.len() as u64).to_be_bytes());
        self.0.extend(part.as_bytes());
        self
    }

    /// Adds values, such as a caller's claims.
    pub fn values(&mut self, values: &[Value]) -> &mut Self {
        let mut encoded = Vec::new();
        encode(values, &mut encoded);
        self.0.extend((encoded.len() as u64).to_be_bytes());
        self.0.extend(encoded);
        self
    }
}

impl CursorKeys {
    /// Keys of 32 octets, the one to make cursors with first.
    pub fn new(keys: Vec<[u8; 32]>) -> Self {
        Self(keys)
    }

    /// Makes a cursor. `seed` is fresh randomness, `now` the Unix time in seconds.
    ///
    /// # Errors
    /// [`Code::Internal`] without a key.
    pub fn seal(&self, seed: [u8; SEED], now: i64, binding: &Binding, place: &Place) -> Result<String, Failure> {
        let sealed = || {
            let (salt, nonce) = seed.split_at(SALT);
            let mut body = now.to_be_bytes().to_vec();
            place.encode(&mut body);
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            derived(self.0.first()?, salt)?.seal_in_place_append_tag(nonce, Aad::from(&binding.0), &mut body).ok()?;
            let mut cursor = seed.to_vec();
            cursor.append(&mut body);
            Some(BASE64.encode(cursor))
        };
        sealed().ok_or_else(|| {
            Failure::new(Code::Internal, "no cursor could be made")
                .with_internal("the cursor key is missing or unusable")
        })
    }

    /// Opens a cursor that is younger than `ttl`.
    ///
    /// # Errors
    /// [`Code::InvalidCursor`] for anything that this deployment did not make for this binding within that time.
    pub fn open(&self, cursor: &str, now: i64, ttl: Duration, binding: &Binding) -> Result<Place, Failure> {
        let opened = || {
            let octets = BASE64.decode(cursor).ok()?;
            let (seed, sealed) = octets.split_at_checked(SEED)?;
            let (salt, nonce) = seed.split_at_checked(SALT)?;
            let body = self.0.iter().find_map(|key| {
                let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
                let mut body = sealed.to_vec();
                let length = derived(key, salt)?.open_in_place(nonce, Aad::from(&binding.0), &mut body).ok()?.len();
                body.truncate(length);
                Some(body)
            })?;
            let (time, place) = body.split_at_checked(TIME)?;
            let age = now.checked_sub(i64::from_be_bytes(time.try_into().ok()?))?;
            let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
            if age > ttl || age < -SKEW {
                return None;
            }
            Place::decode(place)
        };
        opened().ok_or_else(|| {
            let detail = "`cursor` is not valid here; it must come from the `next` of a recent page with the same \
                          filter, sort and caller; start again without it";
            Failure::new(Code::InvalidCursor, detail)
        })
    }
}

fn derived(key: &[u8; 32], salt: &[u8]) -> Option<LessSafeKey> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), salt);
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, tag.as_ref()).ok()?))
}

// Values as octets: a tag, then for what varies in length a length. Floats keep their bits.

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const TEXT: u8 = 5;
const BYTES: u8 = 6;
const LIST: u8 = 7;

fn encode(values: &[Value], out: &mut Vec<u8>) {
    let octets = |out: &mut Vec<u8>, tag, octets: &[u8]| {
        out.push(tag);
        out.extend((octets.len() as u64).to_be_bytes());
        out.extend(octets);
    };
    for value in values {
        match value {
            Value::Null => out.push(NULL),
            Value::Bool(known) => out.push(if *known { TRUE } else { FALSE }),
            Value::Int(int) => {
                out.push(INT);
                out.extend(int.to_be_bytes());
            }
            Value::Float(float) => {
                out.push(FLOAT);
                out.extend(float.to_bits().to_be_bytes());
            }
            Value::Text(text) => octets(out, TEXT, text.as_bytes()),
            Value::Bytes(bytes) => octets(out, BYTES, bytes),
            Value::List(list) => {
                let mut inner = Vec::new();
                encode(list, &mut inner);
                octets(out, LIST, &inner);
            }
        }
    }
}

fn decode(mut octets: &[u8]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    while let Some((tag, rest)) = octets.split_first() {
        octets = rest;
        let mut take = |count: usize| {
            let (taken, rest) = octets.split_at_checked(count)?;
            octets = rest;
            Some(taken)
        };
        let mut number = || Some(u64::from_be_bytes(take(8)?.try_into().ok()?));
        values.push(match *tag {
            NULL => Value::Null,
            FALSE => Value::Bool(false),
            TRUE => Value::Bool(true),
            INT => Value::Int(number()?.cast_signed()),
            FLOAT => Value::Float(f64::from_bits(number()?)),
            tag => {
                let length = usize::try_from(number()?).ok()?;
                let taken = take(length)?.to_vec();
                match tag {
                    TEXT => Value::Text(String::from_utf8(taken).ok()?),
                    BYTES => Value::Bytes(taken),
                    // The engine never nests lists; a sealed body is its own work.
                    LIST => Value::List(decode(&taken)?),
                    _ => return None,
                }
            }
        });
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const DAY: Duration = Duration::from_hours(24);

    fn binding(part: &str) -> Binding {
        let mut binding = Binding::default();
        binding.part(part).values(&[Value::Text("ann".to_owned()), Value::Null]);
        binding
    }

    fn values() -> Place {
        let values = [
            Value::Null,
            Value::Bool(true),
            Value::Int(i64::MIN),
            Value::Float(0.1),
            Value::Text("é\u{10FFFF}".to_owned()),
            Value::Bytes(vec![0, 255]),
            Value::List(vec![Value::Int(1), Value::Bool(false)]),
            Value::Text("é".repeat(WHOLE)),
        ];
        Place::of(&values, |_| false)
    }

    #[test]
    fn what_was_sealed_comes_back_within_its_time() {
        let keys = CursorKeys::new(vec![[7; 32]]);
        let cursor = keys.seal([1; SEED], NOW, &binding("a"), &values()).unwrap();
        for later in [-SKEW, 0, 86_400] {
            assert_eq!(keys.open(&cursor, NOW + later, DAY, &binding("a")).unwrap(), values());
        }
        for other in [-SKEW - 1, 86_401] {
            assert_eq!(keys.open(&cursor, NOW + other, DAY, &binding("a")).unwrap_err().code, Code::InvalidCursor);
        }
    }

    #[test]
    fn another_binding_key_or_text_is_refused_in_the_same_words() {
        let keys = CursorKeys::new(vec![[7; 32]]);
        let cursor = keys.seal([1; SEED], NOW, &binding("a"), &values()).unwrap();
        let expired = keys.open(&cursor, NOW + 86_401, DAY, &binding("a")).unwrap_err();
        assert_eq!(keys.open(&cursor, NOW, DAY, &binding("b")).unwrap_err(), expired);
        assert_eq!(CursorKeys::new(vec![[8; 32]]).open(&cursor, NOW, DAY, &binding("a")).unwrap_err(), expired);
        for text in ["", "AAAA", "not base64!", &cursor[..cursor.len() - 1], &format!("{cursor}A"), &"A".repeat(9000)] {
            assert_eq!(keys.open(text, NOW, DAY, &binding("a")).unwrap_err(), expired, "{text}");
        }
        for at in 0..cursor.len() {
            let mut forged = cursor.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(keys.open(&forged, NOW, DAY, &binding("a")).unwrap_err(), expired);
        }
    }

    #[test]
    fn keys_rotate() {
        let old = CursorKeys::new(vec![[7; 32]]);
        let both = CursorKeys::new(vec![[8; 32], [7; 32]]);
        let new = CursorKeys::new(vec![[8; 32]]);
        let from_old = old.seal([1; SEED], NOW, &binding("a"), &values()).unwrap();
        let from_both = both.seal([2; SEED], NOW, &binding("a"), &values()).unwrap();
        assert!(both.open(&from_old, NOW, DAY, &binding("a")).is_ok());
        assert!(new.open(&from_both, NOW, DAY, &binding("a")).is_ok());
        assert!(new.open(&from_old, NOW, DAY, &binding("a")).is_err());
        assert_eq!(
            CursorKeys::new(Vec::new()).seal([1; SEED], NOW, &binding("a"), &Place::default()).unwrap_err().code,
            Code::Internal
        );
    }

    #[test]
    fn long_values_are_cut_and_found_again() {
        let long = |text: &str| Value::Text(text.repeat(WHOLE));
        let values = [long("é"), long("key"), Value::Bytes(vec![255; 1000]), Value::Null];
        let place = Place::of(&values, |at| at == 1);
        assert!(!place.is_whole() && place.cut(1).is_none());
        assert_eq!(place.completed(&values).unwrap(), values);
        let mut other = values.clone();
        other[0] = Value::Text(format!("{}!", "é".repeat(WHOLE)));
        assert_eq!(place.completed(&other), None);
        other = values.clone();
        other[3] = Value::Int(1);
        assert_eq!(place.completed(&other), None);
        let cut = "é".repeat(WHOLE / 2);
        assert_eq!(
            place.before(|_| false),
            [Value::Text(cut.clone()), values[1].clone(), Value::Bytes(vec![255; WHOLE]), Value::Null]
        );
        let next = Value::Text(format!("{}ê", &cut[..cut.len() - 2]));
        assert_eq!(place.before(|_| true), [next, values[1].clone(), Value::Null, Value::Null]);
        let short = Place::of(&[Value::Text("x".repeat(WHOLE))], |_| false);
        assert!(short.is_whole());
    }

    #[test]
    fn parts_cannot_be_shifted() {
        let (mut a, mut b) = (Binding::default(), Binding::default());
        a.part("ab").part("c");
        b.part("a").part("bc");
        assert_ne!(a, b);
    }

    proptest! {
        #[test]
        fn garbage_never_decodes_into_a_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&octets);
            let _ = Place::decode(&octets);
        }
    }
}
