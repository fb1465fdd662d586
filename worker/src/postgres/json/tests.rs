//! Bytes that no server sends. What servers do send is tested against one in `tests/tests/postgres_types.rs`.

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::composite::Attribute;
use super::{Encoder, Form, write_json_string};

fn encoder(form: Form) -> Encoder {
    Encoder { name: "probe".into(), oid: 1, form }
}

fn simple_forms() -> Vec<Form> {
    vec![
        Form::Bool,
        Form::Int2,
        Form::Int4,
        Form::Int8,
        Form::Oid,
        Form::Float4,
        Form::Float8,
        Form::Numeric,
        Form::Text,
        Form::PaddedText,
        Form::InternalChar,
        Form::Uuid,
        Form::Inet,
        Form::Cidr,
        Form::MacAddress,
        Form::Date,
        Form::Timestamp,
        Form::TimestampTz,
        Form::Time,
        Form::TimeTz,
        Form::Interval,
        Form::Bytea,
    ]
}

/// Every form, alone and as element, bound and attribute; but for JSON, whose text is taken as it is.
fn encoders() -> Vec<Encoder> {
    let wraps: [fn(Encoder) -> Form; 4] = [
        |inner| Form::Array(Box::new(inner)),
        |inner| Form::Range(Box::new(inner)),
        |inner| Form::Composite(vec![Attribute::new("a\"b", inner)]),
        |inner| Form::Array(Box::new(encoder(Form::Composite(vec![Attribute::new("a", inner)])))),
    ];
    let wrapped = wraps.into_iter().flat_map(|wrap| simple_forms().into_iter().map(move |form| wrap(encoder(form))));
    simple_forms().into_iter().chain(wrapped).map(encoder).collect()
}

/// A value with its length before it.
fn sized(value: &[u8]) -> Vec<u8> {
    let length = i32::try_from(value.len()).expect("short");
    [&length.to_be_bytes()[..], value].concat()
}

fn ints(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// Values that are well formed as far as their shells go, around what may be anything.
fn shells(inner: &[u8]) -> Vec<Vec<u8>> {
    let record = [ints(&[1, 1]), sized(inner)].concat();
    vec![
        inner.to_vec(),
        [ints(&[1, 0, 1, 2, 1]), sized(inner), sized(inner)].concat(),
        [ints(&[2, 1, 1, 1, 1, 2, 1]), sized(inner), ints(&[-1])].concat(),
        [vec![0x02], sized(inner), sized(inner)].concat(),
        [vec![0x12], sized(inner)].concat(),
        record.clone(),
        [ints(&[1, 0, 1, 1, 1]), sized(&record)].concat(),
    ]
}

/// Whatever the bytes: no panic, and either JSON or nothing.
fn check_all(raw: &[u8]) {
    for encoder in encoders() {
        let mut out = b"before".to_vec();
        match encoder.write(raw, &mut out) {
            Ok(()) => {
                let json = std::str::from_utf8(&out[6..]).expect("UTF-8");
                assert!(serde_json::from_str::<&RawValue>(json).is_ok(), "{encoder:?} made {json} of {raw:?}");
                assert!(!json.contains(['\n', '\r']), "{encoder:?} made {json:?}");
            }
            Err(_) => assert_eq!(out, b"before", "{encoder:?}"),
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_json_or_an_error(inner in proptest::collection::vec(any::<u8>(), 0..40)) {
        shells(&inner).iter().for_each(|raw| check_all(raw));
    }

    #[test]
    fn changed_and_torn_values_are_json_or_an_error(
        inner in prop_oneof![
            Just(0_i32.to_be_bytes().to_vec()),
            Just(1_i64.to_be_bytes().to_vec()),
            Just(vec![0, 2, 0, 0, 0, 0, 0, 4, 0, 12, 19, 136]),
            Just(vec![2, 24, 0, 4, 10, 0, 0, 1]),
        ],
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        end in any::<proptest::sample::Index>(),
    ) {
        for mut raw in shells(&inner) {
            let at = at.index(raw.len());
            raw[at] = byte;
            check_all(&raw);
            raw.truncate(end.index(raw.len()));
            check_all(&raw);
        }
    }

    #[test]
    fn a_string_reads_back_as_it_was(text in any::<String>()) {
        let mut out = Vec::new();
        write_json_string(&text, &mut out);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
    }

    #[test]
    fn escapes_are_found_at_every_place(before in 0_usize..300, after in 0_usize..300, byte in 0_u8..0x80) {
        let text = format!("{}{}{}", "x".repeat(before), char::from(byte), "y".repeat(after));
        let mut out = Vec::new();
        write_json_string(&text, &mut out);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
    }

    #[test]
    fn base64_reads_back_as_it_was(raw in proptest::collection::vec(any::<u8>(), 0..4000)) {
        use base64::Engine as _;
        let mut out = Vec::new();
        encoder(Form::Bytea).write(&raw, &mut out).expect("any bytes are a bytea");
        let text = serde_json::from_slice::<String>(&out).expect("JSON");
        prop_assert_eq!(super::STANDARD.decode(text).expect("base64"), raw);
    }
}

#[test]
fn errors_name_the_type_and_what_is_wrong() {
    let array = || Form::Array(Box::new(encoder(Form::Int4)));
    let pair = || Form::Composite(vec![Attribute::new("a", encoder(Form::Int4))]);
    let cases: Vec<(Form, Vec<u8>, &str)> = vec![
        (Form::Int4, vec![0; 3], "has 3 bytes instead of 4"),
        (Form::Int8, vec![0; 9], "has 9 bytes instead of 8"),
        (Form::Text, vec![b'a', 0xff], "is not UTF-8"),
        (Form::Json, vec![], "is empty, which no JSON is"),
        (Form::Json, vec![b'"', 0xff, b'"'], "is not UTF-8"),
        (Form::Jsonb, vec![2, b'1'], "is not of jsonb's version 1"),
        (Form::Jsonb, vec![1], "is empty, which no JSON is"),
        (Form::Numeric, vec![0; 7], "ends too early"),
        (Form::Numeric, vec![0, 2, 0, 0, 0, 0, 0, 0, 0, 1], "has another number of digits than it says"),
        (Form::Numeric, vec![0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10], "has a digit group over 9999"),
        (Form::Numeric, vec![0, 0, 0, 0, 0x12, 0, 0, 0], "has an unknown sign"),
        (Form::Numeric, vec![0, 0, 0, 0, 0, 0, 0x40, 0], "has more digits after the point than there can be"),
        (Form::Inet, vec![1, 32, 0, 4, 10, 0, 0, 1], "is of no known address family"),
        (Form::Inet, vec![2, 33, 0, 4, 10, 0, 0, 1], "has more network bits than its address"),
        (Form::MacAddress, vec![0; 7], "has neither six nor eight bytes"),
        (Form::Date, ints(&[i32::MIN + 1]), "is out of range"),
        (Form::Timestamp, (i64::MAX - 1).to_be_bytes().to_vec(), "is out of range"),
        (Form::Time, (-1_i64).to_be_bytes().to_vec(), "is not a time of day"),
        (Form::TimeTz, ints(&[0, 0, 86_400]), "has an offset of a day or more"),
        (Form::Interval, vec![0; 15], "ends too early"),
        (Form::Interval, vec![0; 17], "has 1 bytes too many"),
        (array(), ints(&[7, 0, 1]), "has an impossible number of dimensions"),
        (array(), ints(&[1, 0, 1, 0, 1]), "has a dimension without elements"),
        (array(), ints(&[0, 0, 2]), "holds a value of the type with oid 2 where 1 was described"),
        (array(), ints(&[1, 0, 1, i32::MAX, 1]), "ends too early"),
        (array(), ints(&[1, 0, 1, 1, 1, -2]), "holds a value of negative length"),
        (array(), ints(&[1, 0, 1, 1, 1, 8, 0, 0]), "has 8 bytes instead of 4"),
        (Form::Range(Box::new(encoder(Form::Int4))), vec![0x80], "has unknown flags"),
        (Form::Range(Box::new(encoder(Form::Int4))), vec![0x10, 255, 255, 255, 255], "has a NULL as a bound"),
        (Form::Range(Box::new(encoder(Form::Int4))), vec![0x01, 0], "has 1 bytes too many"),
        (pair(), ints(&[2]), "has another number of attributes than described"),
        (pair(), ints(&[1, 2, -1]), "holds a value of the type with oid 2 where 1 was described"),
    ];
    for (form, raw, expected) in cases {
        let encoder = encoder(form);
        let error = encoder.write(&raw, &mut Vec::new()).expect_err(expected).to_string();
        assert!(error.starts_with(&format!("a value of type probe {expected}")), "{encoder:?}: {error}");
    }
}

#[test]
fn leading_zero_groups_make_no_leading_zeros() {
    let check = |groups: &[u16], weight: i16, scale: u16, expected: &str| {
        let header = [groups.len() as u16, weight as u16, 0, scale];
        let raw: Vec<u8> = header.iter().chain(groups).flat_map(|value| value.to_be_bytes()).collect();
        let mut out = Vec::new();
        encoder(Form::Numeric).write(&raw, &mut out).expect("a numeric");
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    };
    check(&[0, 0, 7], 2, 0, "7");
    check(&[0, 7, 0], 2, 2, "70000.00");
    check(&[0, 0], 1, 1, "0.0");
    check(&[7], -2, 8, "0.00000007");
    check(&[7], 2, 0, "700000000");
}

#[test]
fn infinite_intervals_of_later_servers_are_null() {
    for (micros, part) in [(i64::MAX, i32::MAX), (i64::MIN, i32::MIN)] {
        let raw = [&micros.to_be_bytes()[..], &part.to_be_bytes(), &part.to_be_bytes()].concat();
        let mut out = Vec::new();
        encoder(Form::Interval).write(&raw, &mut out).expect("an interval");
        assert_eq!(out, b"null");
    }
}
