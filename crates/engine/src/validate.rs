//! The validators of the language: what each asks of a value.
//!
//! A sentence says what is asked, with the schema's own bounds, and never repeats the value. The code of a failure is
//! the attribute's name:
//!
//! | code | holds for |
//! |---|---|
//! | `length` | Unicode scalar values of a string, octets of `Bytes` |
//! | `range` | numbers, dates and times, bounds included |
//! | `email` | what HTML's `input type=email` accepts, at most 254 octets |
//! | `regex` | the whole value |
//! | `uri` | RFC 3986 with a scheme, a fragment allowed |
//! | `iso4217` | a code of `data/iso4217.csv`; any three capitals with `@iso4217(any)` |
//! | `iban` | electronic form: no spaces, capitals; the country's length; check digits |
//! | `bic` | 8 or 11 capitals and digits with an ISO 3166 country |
//! | `lei` | 20 capitals and digits with check digits |

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::LazyLock;

use cratestack_schema::decimal::Backend;
use cratestack_schema::ir::{Field, FieldType, Scalar, Schema, ValidatorKind};
use cratestack_schema::pattern;
use cratestack_schema::value::Value;
use regex::Regex;

use crate::sql::SqlType;

/// The patterns of a schema, compiled once.
#[derive(Debug, Clone, Default)]
pub struct Validators {
    patterns: HashMap<String, Regex>,
    /// What every decimal must fit, whatever its field says.
    decimals: Option<Backend>,
}

/// What a value breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The validator's name.
    pub code: &'static str,
    /// What is asked.
    pub detail: String,
}

impl Validators {
    /// Compiles what the fields of models, value objects and procedures need.
    ///
    /// # Errors
    /// When a pattern does not compile, which the schema's check has already refused.
    pub fn compile(schema: &Schema) -> Result<Self, String> {
        let models = schema.models.iter().flat_map(|model| &model.fields);
        let types = schema.types.iter().flat_map(|def| &def.fields);
        let params = schema.procedures.iter().flat_map(|procedure| &procedure.params);
        let mut patterns = HashMap::new();
        for validator in models.chain(types).chain(params).flat_map(|field| &field.validators) {
            if let ValidatorKind::Regex(text) = &validator.kind {
                patterns.insert(text.clone(), pattern::compile(text)?);
            }
        }
        Ok(Self { patterns, decimals: None })
    }

    /// Also refuses decimals that the backend does not hold.
    #[must_use]
    pub fn decimals(self, backend: Option<Backend>) -> Self {
        Self { decimals: backend, ..self }
    }

    /// Gives every validator of the field that one value breaks. The value is not null; of a list it is one element.
    pub fn check(&self, field: &Field, value: &Value) -> Vec<Broken> {
        let broken = field.validators.iter().filter_map(|validator| self.broken(field.ty, &validator.kind, value));
        broken.chain(self.beyond(field, value)).collect()
    }

    fn beyond(&self, field: &Field, value: &Value) -> Option<Broken> {
        let backend = self.decimals.filter(|_| matches!(field.ty, FieldType::Scalar(Scalar::Decimal(_))))?;
        let holds = matches!(value, Value::Text(text) if text.parse().is_ok_and(|value| backend.holds(&value)));
        let detail = "must have at most 28 digits, before and behind the point together";
        (!holds).then(|| Broken { code: "precision", detail: detail.to_owned() })
    }

    fn broken(&self, ty: FieldType, kind: &ValidatorKind, value: &Value) -> Option<Broken> {
        let text = || if let Value::Text(text) = value { text.as_str() } else { "" };
        let (code, holds, asked) = match kind {
            ValidatorKind::Length { min, max } => {
                let length = match value {
                    Value::Bytes(octets) => octets.len(),
                    _ => text().chars().count(),
                };
                let length = u64::try_from(length).unwrap_or(u64::MAX);
                let holds = min.is_none_or(|min| length >= min) && max.is_none_or(|max| length <= max);
                let unit = if matches!(value, Value::Bytes(_)) { "octet" } else { "character" };
                return (!holds).then(|| Broken { code: "length", detail: length_asked(*min, *max, unit) });
            }
            ValidatorKind::Range { min, max } => {
                let scalar = SqlType { ty, list: false }.stored();
                let order = |bound: &Option<Value>| bound.as_ref().and_then(|bound| value.compare(bound, scalar));
                let holds = order(min) != Some(Ordering::Less) && order(max) != Some(Ordering::Greater);
                return (!holds).then(|| Broken { code: "range", detail: range_asked(min.as_ref(), max.as_ref()) });
            }
            ValidatorKind::Email => ("email", is_email(text()), "must be an email address"),
            ValidatorKind::Regex(pattern) => {
                // A pattern that was not compiled lets nothing through.
                let holds = self.patterns.get(pattern).is_some_and(|regex| regex.is_match(text()));
                ("regex", holds, "must have the form that is asked for")
            }
            ValidatorKind::Uri => ("uri", is_uri(text()), "must be an absolute URI, such as `https://example.com/`"),
            ValidatorKind::Iso4217 { any: false } => {
                ("iso4217", currency(text()).is_some(), "must be a currency code of ISO 4217, such as `EUR`")
            }
            ValidatorKind::Iso4217 { any: true } => {
                ("iso4217", is_currency_shape(text()), "must be three capital letters, such as `EUR`")
            }
            ValidatorKind::Iban => ("iban", is_iban(text()), "must be an IBAN without spaces, with valid check digits"),
            ValidatorKind::Bic => {
                ("bic", is_bic(text()), "must be a BIC: eight or eleven capital letters and digits, with a country")
            }
            ValidatorKind::Lei => ("lei", is_lei(text()), "must be a legal entity identifier with valid check digits"),
        };
        (!holds).then(|| Broken { code, detail: asked.to_owned() })
    }
}

fn length_asked(min: Option<u64>, max: Option<u64>, unit: &str) -> String {
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    match (min, max) {
        (Some(min), Some(max)) if min == max => format!("must have exactly {min} {unit}{}", plural(min)),
        (Some(min), Some(max)) => format!("must have between {min} and {max} {unit}{}", plural(max)),
        (Some(min), None) => format!("must have at least {min} {unit}{}", plural(min)),
        (None, Some(max)) => format!("must have at most {max} {unit}{}", plural(max)),
        (None, None) => "must have a length".to_owned(),
    }
}

fn range_asked(min: Option<&Value>, max: Option<&Value>) -> String {
    match (min.map(bound_text), max.map(bound_text)) {
        (Some(min), Some(max)) => format!("must be between {min} and {max}"),
        (Some(min), None) => format!("must be at least {min}"),
        (None, Some(max)) => format!("must be at most {max}"),
        (None, None) => "must be in range".to_owned(),
    }
}

fn bound_text(bound: &Value) -> String {
    match bound {
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => text.clone(),
        _ => String::new(),
    }
}

// Currencies.

/// A row of the official list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Currency {
    /// Three capital letters.
    pub code: &'static str,
    /// Three digits, leading zeros included.
    pub numeric: &'static str,
    /// Digits after the point of an amount; `None` where ISO 4217 says "not applicable".
    pub minor_units: Option<u8>,
    /// English name.
    pub name: &'static str,
}

/// The list as of 2026-01-01, sorted by code.
static CURRENCIES: LazyLock<Vec<Currency>> = LazyLock::new(|| {
    let rows = include_str!("../data/iso4217.csv").lines().skip(1);
    rows.filter_map(|row| {
        let mut cells = row.splitn(4, ',');
        Some(Currency {
            code: cells.next()?,
            numeric: cells.next()?,
            minor_units: cells.next()?.parse().ok(),
            name: cells.next()?,
        })
    })
    .collect()
});

/// Every code of the list, sorted.
pub fn currency_codes() -> impl Iterator<Item = &'static str> {
    CURRENCIES.iter().map(|currency| currency.code)
}

/// The currency with that code.
pub fn currency(code: &str) -> Option<&'static Currency> {
    let at = CURRENCIES.binary_search_by(|currency| currency.code.cmp(code)).ok()?;
    CURRENCIES.get(at)
}

fn is_currency_shape(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

// Bank identifiers.

/// ISO 3166-1 alpha-2, and `XK`, which banks use for Kosovo.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR \
    BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET \
    FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ \
    IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML \
    MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS \
    PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL \
    TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW";

fn is_country(text: &str) -> bool {
    text.len() == 2 && COUNTRIES.split(' ').any(|country| country == text)
}

/// The length that a country's IBANs have, from the SWIFT registry.
fn iban_length(country: &str) -> Option<usize> {
    let rows = include_str!("../data/iban.csv").lines().skip(1);
    let mut rows = rows.filter_map(|row| row.split_once(','));
    rows.find(|(code, _)| *code == country).and_then(|(_, length)| length.parse().ok())
}

fn is_code(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// ISO 7064 MOD 97-10 of digits and capitals, `A` being 10.
fn mod_97(text: impl Iterator<Item = u8>) -> u32 {
    text.fold(0, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte.wrapping_sub(b'A')) + 10) % 97,
    })
}

fn is_iban(text: &str) -> bool {
    let Some((country, rest)) = text.split_at_checked(2) else { return false };
    let Some((check, account)) = rest.split_at_checked(2) else { return false };
    iban_length(country) == Some(text.len())
        && all_digits(check)
        // 00, 01 and 99 are never made, though they leave the same rest as 97, 98 and 02.
        && ("02"..="98").contains(&check)
        && is_code(account)
        && mod_97(account.bytes().chain(country.bytes()).chain(check.bytes())) == 1
}

fn is_bic(text: &str) -> bool {
    matches!(text.len(), 8 | 11) && is_code(text) && text.get(4..6).is_some_and(is_country)
}

fn is_lei(text: &str) -> bool {
    text.len() == 20
        && is_code(text)
        && text.get(18..).is_some_and(|check| all_digits(check) && ("02"..="98").contains(&check))
        && mod_97(text.bytes()) == 1
}

// Addresses.

/// HTML, "valid email address": a local part of printable ASCII without quotes or brackets, and a host name.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let atom = |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 254 && !local.is_empty() && local.bytes().all(atom) && domain.split('.').all(label)
}

/// RFC 3986, section 3: scheme, then authority and path, query, fragment.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let scheme_char = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(scheme_char) {
        return false;
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (hierarchy, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match hierarchy.strip_prefix("//") {
        Some(after) => after.split_at(after.find('/').unwrap_or(after.len())),
        None => ("", hierarchy),
    };
    is_authority(authority) && is_escaped(path, b":@/") && is_escaped(query, b":@/?") && is_escaped(fragment, b":@/?")
}

fn is_authority(text: &str) -> bool {
    let (user, host_port) = text.rsplit_once('@').unwrap_or(("", text));
    let (host, port) = match host_port.strip_prefix('[') {
        Some(literal) => {
            let Some((address, port)) = literal.split_once(']') else { return false };
            let future = address.strip_prefix(['v', 'V']).and_then(|address| address.split_once('.'));
            let known = match future {
                Some((version, address)) => {
                    !version.is_empty()
                        && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                        && !address.is_empty()
                        && !address.contains('%')
                        && is_escaped(address, b":")
                }
                None => address.parse::<std::net::Ipv6Addr>().is_ok(),
            };
            if !known {
                return false;
            }
            ("", port)
        }
        None => host_port.split_at(host_port.find(':').unwrap_or(host_port.len())),
    };
    let port_holds = port.is_empty() || port.strip_prefix(':').is_some_and(all_digits);
    port_holds && is_escaped(user, b":") && is_escaped(host, b"")
}

/// Unreserved characters, sub-delimiters, percent escapes, and what `also` allows.
fn is_escaped(text: &str, also: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let holds = match byte {
            b'%' => {
                let mut hex = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                hex() && hex()
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte) || also.contains(&byte),
        };
        if !holds {
            return false;
        }
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use cratestack_schema::ir::Scalar;
    use proptest::prelude::*;

    use super::*;

    /// A test, texts that it takes, and texts that it refuses.
    type Table<'a> = (fn(&str) -> bool, &'a [&'a str], &'a [&'a str]);

    #[test]
    fn shapes() {
        let long_label = format!("a@{}.de", "x".repeat(64));
        let long = format!("{}@{}", "x".repeat(200), "y.".repeat(30));
        let tables: [Table<'_>; 5] = [
            (
                is_email,
                &["a@b", "ann.o'neil+x@example.com", "a@b-c.d", ".a.@1.2", "a!#$%&'*+/=?^_`{|}~-@x"],
                &[
                    "",
                    "a",
                    "@b",
                    "a@",
                    "a@b.",
                    "a@.b",
                    "a@-b",
                    "a@b-",
                    "a b@c",
                    "a@b c",
                    "a@b@c",
                    "ä@b",
                    "a@bücher.de",
                    "\"a\"@b",
                    "a@[127.0.0.1]",
                    "a@b\n",
                    &long_label,
                    &long,
                ],
            ),
            (
                is_uri,
                &[
                    "https://example.com/",
                    "https://user:pw@example.com:8080/a/b?c=d&e#f",
                    "urn:isbn:0451450523",
                    "a:",
                    "mailto:a@b.c",
                    "http://[::1]:80/",
                    "http://[2001:db8::7]/c=GB?x",
                    "file:///etc/hosts",
                    "http://",
                    "http://1.2.3.4/%20",
                    "tel:+1-816-555-1212",
                    "ldap://[v7.a:b]/",
                ],
                &[
                    "",
                    "example.com",
                    "/a",
                    "//a/b",
                    "1a:b",
                    ":a",
                    "http://a b",
                    "http://a/%2",
                    "http://a/%zz",
                    "a:\u{0}",
                    "http://[::1",
                    "http://[::g]/",
                    "http://a:b/",
                    "http://a/[",
                    "a:é",
                    "a:b#c#d",
                    "a:<b>",
                    "a:b\n",
                    "http://a@b@c/",
                ],
            ),
            (
                is_iban,
                &[
                    "DE89370400440532013000",
                    "GB82WEST12345698765432",
                    "FR1420041010050500013M02606",
                    "NO9386011117947",
                    "MT84MALT011000012345MTLCAST001S",
                    "CH9300762011623852957",
                    "BE68539007547034",
                ],
                &[
                    "",
                    "DE",
                    "DE8937040044053201300",
                    "DE893704004405320130000",
                    "DE88370400440532013000",
                    "de89370400440532013000",
                    "DE89 3704 0044 0532 0130 00",
                    "XX82WEST12345698765432",
                    "GB82WEST1234569876543é",
                    "D€89370400440532013000",
                ],
            ),
            (
                is_bic,
                &["DEUTDEFF", "DEUTDEFF500", "NEDSZAJJXXX", "CHASUS33", "PCBKXKPR"],
                &["", "DEUTDEF", "DEUTDEFF5", "DEUTXXFF", "deutdeff", "DEUTDEFF50 ", "DEUTDEFÉ"],
            ),
            (
                is_lei,
                &["529900T8BM49AURSDO55", "5493001KJTIIGC8Y1R12", "7LTWFZYICNSX8D621K86"],
                &["", "529900T8BM49AURSDO56", "529900T8BM49AURSDO5", "529900t8bm49aursdo55", "529900T8BM49AURSDO5É"],
            ),
        ];
        for (test, taken, refused) in tables {
            for text in taken {
                assert!(test(text), "{text}");
            }
            for text in refused {
                assert!(!test(text), "{text}");
            }
        }
    }

    #[test]
    fn currencies() {
        assert_eq!(currency("EUR").map(|currency| (currency.numeric, currency.minor_units)), Some(("978", Some(2))));
        for (code, minor) in [("JPY", Some(0)), ("BHD", Some(3)), ("CLF", Some(4)), ("XAU", None), ("USD", Some(2))] {
            assert_eq!(currency(code).unwrap().minor_units, minor, "{code}");
        }
        for code in ["", "eur", "EURO", "DEM", "HRK", "BGN", "ABC", "EUR ", "code"] {
            assert!(currency(code).is_none(), "{code}");
        }
        assert!(is_currency_shape("ABC") && !is_currency_shape("Abc") && !is_currency_shape("ABCD"));
        assert!(CURRENCIES.is_sorted_by(|a, b| a.code < b.code));
        for currency in CURRENCIES.iter() {
            assert!(is_currency_shape(currency.code), "{}", currency.code);
            assert!(currency.numeric.len() == 3 && all_digits(currency.numeric), "{}", currency.code);
            assert!(!currency.name.is_empty());
        }
        let mut numeric: Vec<&str> = CURRENCIES.iter().map(|currency| currency.numeric).collect();
        numeric.sort_unstable();
        numeric.dedup();
        assert_eq!(numeric.len(), CURRENCIES.len());
        assert_eq!(CURRENCIES.len(), include_str!("../data/iso4217.csv").lines().count() - 1);
    }

    #[test]
    fn countries() {
        assert_eq!(COUNTRIES.split(' ').count(), 250);
        assert!(COUNTRIES.split(' ').is_sorted());
        for row in include_str!("../data/iban.csv").lines().skip(1) {
            let (country, length) = row.split_once(',').unwrap();
            assert!(is_country(country), "{country}");
            assert!((15..=34).contains(&length.parse::<usize>().unwrap()), "{country}");
        }
    }

    #[test]
    fn bounds_and_lengths() {
        let validators = Validators::default();
        let ty = |scalar| FieldType::Scalar(scalar);
        let text = |text: &str| Value::Text(text.to_owned());
        let decimal = ty(Scalar::Decimal(None));
        let range = |min: Option<Value>, max: Option<Value>| ValidatorKind::Range { min, max };
        let length = |min, max| ValidatorKind::Length { min, max };
        for (ty, kind, value, detail) in [
            (ty(Scalar::Int), range(Some(Value::Int(1)), Some(Value::Int(3))), Value::Int(1), None),
            (ty(Scalar::Int), range(Some(Value::Int(1)), Some(Value::Int(3))), Value::Int(3), None),
            (
                ty(Scalar::Int),
                range(Some(Value::Int(1)), Some(Value::Int(3))),
                Value::Int(4),
                Some("must be between 1 and 3"),
            ),
            (decimal, range(Some(text("0.5")), None), text("0.49"), Some("must be at least 0.5")),
            (decimal, range(Some(text("0.5")), None), text("10"), None),
            (decimal, range(None, Some(text("-2"))), text("-10"), None),
            (
                ty(Scalar::DateTime),
                range(None, Some(text("2026-01-01T00:00:00.000000Z"))),
                text("2026-01-01T00:00:00.000001Z"),
                Some("must be at most 2026-01-01T00:00:00.000000Z"),
            ),
            (ty(Scalar::Float), range(Some(Value::Float(0.1)), None), Value::Float(0.0), Some("must be at least 0.1")),
            (ty(Scalar::String), length(Some(1), Some(2)), text("é😀"), None),
            (ty(Scalar::String), length(Some(1), Some(2)), text("abc"), Some("must have between 1 and 2 characters")),
            (ty(Scalar::String), length(Some(1), None), text(""), Some("must have at least 1 character")),
            (ty(Scalar::Bytes), length(None, Some(2)), Value::Bytes(vec![0; 3]), Some("must have at most 2 octets")),
            (ty(Scalar::String), length(Some(3), Some(3)), text("ab"), Some("must have exactly 3 characters")),
        ] {
            let broken = validators.broken(ty, &kind, &value);
            assert_eq!(broken.as_ref().map(|broken| broken.detail.as_str()), detail, "{kind:?} {value:?}");
        }
    }

    #[test]
    fn every_iban_has_one_pair_of_check_digits() {
        // Two check digits in 02..=98 for each of the 97 rests: exactly one fits.
        let fitting = (0..100).filter(|check| is_iban(&format!("DE{check:02}370400440532013000"))).count();
        assert_eq!(fitting, 1);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}|[A-Z0-9]{0,34}|[a-z]*:[/\\[\\]:@%a-f0-9?#]*") {
            for test in [is_email, is_uri, is_iban, is_bic, is_lei] {
                let _ = test(&text);
            }
        }

        #[test]
        fn a_changed_iban_digit_is_noticed(at in 4_usize..22, digit in 0_u8..10) {
            let mut iban = *b"DE89370400440532013000";
            prop_assume!(iban[at] != b'0' + digit);
            iban[at] = b'0' + digit;
            prop_assert!(!is_iban(std::str::from_utf8(&iban).unwrap()));
        }
    }
}
