//! Types, expressions and what becomes of them.

/// The types of one's own that the expressions use.
pub(super) const SETUP: &str = r#"
CREATE EXTENSION citext;
CREATE EXTENSION hstore;
CREATE SCHEMA elsewhere;
CREATE TYPE mood AS ENUM ('sad', 'o"k');
CREATE TYPE elsewhere.colour AS ENUM ('red', 'green');
CREATE DOMAIN positive AS int4 CHECK (value > 0);
CREATE DOMAIN small AS positive CHECK (value < 100);
CREATE DOMAIN tags AS text[];
CREATE DOMAIN instant AS timestamptz;
CREATE TYPE pair AS (x int4, "the ""y""" numeric);
CREATE TYPE crossing AS (id small, label elsewhere.colour, ends pair[], tags tags, during tstzrange);
CREATE TYPE nothing AS ();
CREATE TYPE with_point AS (id int4, at point);
CREATE TYPE timerange AS RANGE (subtype = time);
CREATE TYPE floatrange AS RANGE (subtype = float8);
CREATE TYPE float4range AS RANGE (subtype = float4);
CREATE TYPE textrange AS RANGE (subtype = text);
CREATE TYPE plain_daterange AS RANGE (subtype = date);
CREATE TYPE instantrange AS RANGE (subtype = instant);
CREATE TABLE altered (a int4, b text, c bool);
ALTER TABLE altered DROP COLUMN b;
ALTER TABLE altered ADD COLUMN "d.e" date;
INSERT INTO altered VALUES (1, NULL, '2024-02-29');
"#;

/// SQL expressions and their JSON.
#[rustfmt::skip]
pub(super) const JSON: &[(&str, &str)] = &[
    // Integers
    ("(-32768)::int2", "-32768"),
    ("32767::int2", "32767"),
    ("0::int4", "0"),
    ("(-2147483648)::int4", "-2147483648"),
    ("(-9223372036854775808)::int8", "-9223372036854775808"),
    ("9223372036854775807::int8", "9223372036854775807"),
    ("4294967295::oid", "4294967295"),
    // Floats
    ("1::float4", "1.0"),
    ("0.1::float4", "0.1"),
    ("16777216::float4", "16777216.0"),
    ("'3.4028235e38'::float4", "3.4028235e38"),
    ("'1e-45'::float4", "1e-45"),
    ("'NaN'::float4", "null"),
    ("'-Infinity'::float4", "null"),
    ("0::float8", "0.0"),
    ("'-0'::float8", "-0.0"),
    ("0.1::float8", "0.1"),
    ("(0.1::float8 + 0.2::float8)", "0.30000000000000004"),
    ("12.5::float8", "12.5"),
    ("1e20::float8", "1e20"),
    ("1e-7::float8", "1e-7"),
    ("'1.7976931348623157e308'::float8", "1.7976931348623157e308"),
    ("'5e-324'::float8", "5e-324"),
    ("'NaN'::float8", "null"),
    ("'Infinity'::float8", "null"),
    ("'-Infinity'::float8", "null"),
    // numeric: all digits, no exponent
    ("0::numeric", "0"),
    ("0.00::numeric", "0.00"),
    ("12.50::numeric", "12.50"),
    ("(-12.50)::numeric", "-12.50"),
    ("12.5::numeric(10,4)", "12.5000"),
    ("10000::numeric", "10000"),
    ("100000000::numeric", "100000000"),
    ("99990001::numeric", "99990001"),
    ("0.0001::numeric", "0.0001"),
    ("0.00001::numeric", "0.00001"),
    ("(-0.000000012300)::numeric", "-0.000000012300"),
    ("10000.00010000::numeric", "10000.00010000"),
    ("123456789012345678901234567890.123456789::numeric", "123456789012345678901234567890.123456789"),
    ("1e30::numeric", "1000000000000000000000000000000"),
    ("1e-30::numeric", "0.000000000000000000000000000001"),
    ("12345::numeric(5,-2)", "12300"),
    ("'NaN'::numeric", "null"),
    ("'Infinity'::numeric", "null"),
    ("'-Infinity'::numeric", "null"),
    // bool
    ("true", "true"),
    ("false", "false"),
    // Strings
    ("''::text", r#""""#),
    ("'plain'::text", r#""plain""#),
    ("'an untyped literal'", r#""an untyped literal""#),
    (r#"E'q"b\\s/\b\f\n\r\t\x01\x1f\x7f'::text"#, "\"q\\\"b\\\\s/\\u0008\\u000c\\n\\r\\t\\u0001\\u001f\x7f\""),
    ("U&'\\00e9\\4e2d\\+01f600\\2028'::text", "\"\u{e9}\u{4e2d}\u{1f600}\u{2028}\""),
    ("(repeat('x', 31) || chr(10) || repeat('y', 32) || '\"')::text", r#""xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\nyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\"""#),
    ("'v'::varchar(9)", r#""v""#),
    ("'pad'::char(6)", r#""pad""#),
    ("' '::char(3)", r#""""#),
    ("'pg_class'::name", r#""pg_class""#),
    ("'CiText'::citext", r#""CiText""#),
    ("'a'::\"char\"", r#""a""#),
    ("'\"'::\"char\"", r#""\"""#),
    ("''::\"char\"", r#""""#),
    ("(-1)::\"char\"", r#""\\377""#),
    ("'sad'::mood", r#""sad""#),
    ("'o\"k'::mood", r#""o\"k""#),
    ("'green'::elsewhere.colour", r#""green""#),
    ("'A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#),
    ("'<a b=\"c\">d</a>'::xml", r#""<a b=\"c\">d</a>""#),
    // Network
    ("'192.168.0.1'::inet", r#""192.168.0.1""#),
    ("'192.168.0.1/24'::inet", r#""192.168.0.1/24""#),
    ("'0.0.0.0/0'::inet", r#""0.0.0.0/0""#),
    ("'10.0.0.0/8'::cidr", r#""10.0.0.0/8""#),
    ("'10.1.2.3'::cidr", r#""10.1.2.3/32""#),
    ("'::1'::inet", r#""::1""#),
    ("'::'::inet", r#""::""#),
    ("'2001:DB8:0:0:1:0:0:1/64'::inet", r#""2001:db8::1:0:0:1/64""#),
    ("'::ffff:1.2.3.4'::inet", r#""::ffff:1.2.3.4""#),
    ("'::1.2.3.4'::inet", r#""::1.2.3.4""#),
    ("'2001:db8::/32'::cidr", r#""2001:db8::/32""#),
    ("'08:00:2B:01:02:03'::macaddr", r#""08:00:2b:01:02:03""#),
    ("'08:00:2b:01:02:03:04:05'::macaddr8", r#""08:00:2b:01:02:03:04:05""#),
    // Dates
    ("'2024-01-02'::date", r#""2024-01-02""#),
    ("'2000-02-29'::date", r#""2000-02-29""#),
    ("'1969-12-31'::date", r#""1969-12-31""#),
    ("'0001-01-01'::date", r#""0001-01-01""#),
    ("'0001-12-31 BC'::date", r#""0000-12-31""#),
    ("'0044-03-15 BC'::date", r#""-0043-03-15""#),
    ("'4714-11-24 BC'::date", r#""-4713-11-24""#),
    ("'9999-12-31'::date", r#""9999-12-31""#),
    ("'10000-01-01'::date", "253402300800000"),
    ("'5874897-12-31'::date", "185331706992000000"),
    ("'infinity'::date", "null"),
    ("'-infinity'::date", "null"),
    // Timestamps
    ("'2024-01-02 03:04:05'::timestamp", r#""2024-01-02T03:04:05.000""#),
    ("'2024-01-02 03:04:05.678'::timestamp", r#""2024-01-02T03:04:05.678""#),
    ("'2024-01-02 03:04:05.6'::timestamp", r#""2024-01-02T03:04:05.600""#),
    ("'2024-01-02 03:04:05.678901'::timestamp", r#""2024-01-02T03:04:05.678901""#),
    ("'infinity'::timestamp", "null"),
    ("'-infinity'::timestamp", "null"),
    ("'2024-01-02 03:04:05.678901+02'::timestamptz", r#""2024-01-02T01:04:05.678901Z""#),
    ("'2024-01-01 00:30:00+01'::timestamptz", r#""2023-12-31T23:30:00.000Z""#),
    ("'1969-12-31 23:59:59.999999Z'::timestamptz", r#""1969-12-31T23:59:59.999999Z""#),
    ("'1999-12-31 23:59:59.000001Z'::timestamptz", r#""1999-12-31T23:59:59.000001Z""#),
    ("'4714-11-24 00:00:00Z BC'::timestamptz", r#""-4713-11-24T00:00:00.000Z""#),
    ("'0001-12-31 23:59:59.5Z BC'::timestamptz", r#""0000-12-31T23:59:59.500Z""#),
    ("'9999-12-31 23:59:59.999999Z'::timestamptz", r#""9999-12-31T23:59:59.999999Z""#),
    ("'10000-01-01 00:00:00.001999Z'::timestamptz", "253402300800001"),
    ("'294276-12-31 23:59:59.999999Z'::timestamptz", "9224318015999999"),
    ("'infinity'::timestamptz", "null"),
    ("'-infinity'::timestamptz", "null"),
    // Times
    ("'03:04:05.678901'::time", r#""03:04:05.678901""#),
    ("'00:00'::time", r#""00:00:00.000""#),
    ("'24:00'::time", r#""24:00:00.000""#),
    ("'03:04:05+02'::timetz", r#""03:04:05.000+02:00""#),
    ("'03:04:05.25-09:30'::timetz", r#""03:04:05.250-09:30""#),
    ("'03:04:05+00:00:30'::timetz", r#""03:04:05.000+00:00:30""#),
    ("'03:04:05Z'::timetz", r#""03:04:05.000+00:00""#),
    // Intervals
    ("'1 year 2 mons 3 days 04:05:06.000007'::interval", r#""P1Y2M3DT4H5M6.000007S""#),
    ("'0'::interval", r#""PT0S""#),
    ("'-1 year -2 mons +3 days -04:05:06.5'::interval", r#""P-1Y-2M3DT-4H-5M-6.5S""#),
    ("'-0.000001 s'::interval", r#""PT-0.000001S""#),
    ("'1 mon'::interval", r#""P1M""#),
    ("'60 s'::interval", r#""PT1M""#),
    ("'100000 hours'::interval", r#""PT100000H""#),
    ("make_interval(years => 178000000, days => -2147483648)", r#""P178000000Y-2147483648D""#),
    // JSON
    ("'{\"b\" : [1.0, \"x\\ny\"],\"a\":1,\"a\":2}'::json", r#"{"b" : [1.0, "x\ny"],"a":1,"a":2}"#),
    ("E'{\\n\\r\\n  \"a\"\\t:\\n1}'::json", "{     \"a\"\t: 1}"),
    ("'null'::json", "null"),
    ("'{\"b\" : [1.0, 1e3, \"x\\ny\"],\"a\":1,\"a\":2}'::jsonb", r#"{"a": 2, "b": [1.0, 1000, "x\ny"]}"#),
    // bytea
    ("''::bytea", r#""""#),
    ("'\\x00'::bytea", r#""AA==""#),
    ("'\\xfbff'::bytea", r#""+/8=""#),
    ("'\\xdeadbeef0102'::bytea", r#""3q2+7wEC""#),
    // Arrays
    ("'{}'::int4[]", "[]"),
    ("'{1,NULL,3}'::int4[]", "[1,null,3]"),
    ("'{{1,2},{3,4}}'::int8[]", "[[1,2],[3,4]]"),
    ("'{{{a},{NULL}},{{\"\"},{\"b,\\\"\"}}}'::text[]", r#"[[["a"],[null]],[[""],["b,\""]]]"#),
    ("'[5:6]={1.50,NaN}'::numeric[]", "[1.50,null]"),
    ("'{sad,NULL}'::mood[]", r#"["sad",null]"#),
    ("'{a,B}'::citext[]", r#"["a","B"]"#),
    ("'{2024-01-02,infinity}'::date[]", r#"["2024-01-02",null]"#),
    ("ARRAY['{\"a\": 1}'::jsonb, 'null'::jsonb, NULL]", r#"[{"a": 1},null,null]"#),
    ("ARRAY['\\x00'::bytea]", r#"["AA=="]"#),
    ("'{1,2}'::small[]", "[1,2]"),
    ("'1 2'::int2vector", "[1,2]"),
    ("ARRAY['{a}'::tags]", r#"[["a"]]"#),
    // Ranges
    ("'[1,5]'::int4range", r#"{"gte":1,"lt":6}"#),
    ("'(1,5)'::int8range", r#"{"gte":2,"lt":5}"#),
    ("'(1.50,2.00]'::numrange", r#"{"gt":1.50,"lte":2.00}"#),
    ("'[1,)'::int4range", r#"{"gte":1}"#),
    ("'(,1)'::int4range", r#"{"lt":1}"#),
    ("'(,)'::int4range", "{}"),
    ("'empty'::int4range", "null"),
    ("'[2024-01-02,2024-01-03]'::daterange", r#"{"gte":"2024-01-02","lt":"2024-01-04"}"#),
    ("'[2024-01-02,2024-01-03]'::plain_daterange", r#"{"gte":"2024-01-02","lte":"2024-01-03"}"#),
    ("'(2024-01-02 03:04:05.5,2024-01-03]'::tsrange", r#"{"gt":"2024-01-02T03:04:05.500","lte":"2024-01-03T00:00:00.000"}"#),
    ("'[2024-01-02 00:00+00,2024-01-03 00:00+01)'::tstzrange", r#"{"gte":"2024-01-02T00:00:00.000Z","lt":"2024-01-02T23:00:00.000Z"}"#),
    ("'[9999-12-31,10000-01-01)'::daterange", r#"{"gte":"9999-12-31","lt":253402300800000}"#),
    ("'[2024-01-02,infinity)'::daterange", r#"{"gte":"2024-01-02"}"#),
    ("'[-infinity,2024-01-02 00:00+00)'::tstzrange", r#"{"lt":"2024-01-02T00:00:00.000Z"}"#),
    ("'[-infinity,infinity]'::tstzrange", "{}"),
    ("'[infinity,]'::daterange", "null"),
    ("'(,-infinity]'::tsrange", "null"),
    ("'[1,Infinity]'::numrange", r#"{"gte":1}"#),
    ("'[-Infinity,NaN]'::numrange", "{}"),
    ("'[NaN,NaN]'::numrange", "null"),
    ("'[-Infinity,1.5)'::floatrange", r#"{"lt":1.5}"#),
    ("'(1.5,NaN]'::float4range", r#"{"gt":1.5}"#),
    ("'[03:00,04:00)'::timerange", r#"{"gte":"03:00:00.000","lt":"04:00:00.000"}"#),
    ("'[\"a\\\"\",b]'::textrange", r#"{"gte":"a\"","lte":"b"}"#),
    ("'[2024-01-02 00:00+00,infinity)'::instantrange", r#"{"gte":"2024-01-02T00:00:00.000Z"}"#),
    ("ARRAY['[1,2)'::int4range, 'empty', NULL]", r#"[{"gte":1,"lt":2},null,null]"#),
    // Composites
    ("ROW(1, 2.50)::pair", r#"{"x":1,"the \"y\"":2.50}"#),
    ("ROW(NULL, NULL)::pair", r#"{"x":null,"the \"y\"":null}"#),
    ("ROW()::nothing", "{}"),
    (
        "ROW(7, 'red', ARRAY[ROW(1, 2)::pair, NULL], '{a,b}', '[2024-01-02 00:00+00,)')::crossing",
        r#"{"id":7,"label":"red","ends":[{"x":1,"the \"y\"":2},null],"tags":["a","b"],"during":{"gte":"2024-01-02T00:00:00.000Z"}}"#,
    ),
    ("(SELECT altered FROM altered)", r#"{"a":1,"c":null,"d.e":"2024-02-29"}"#),
    // Domains
    ("7::small", "7"),
    ("'{a}'::tags", r#"["a"]"#),
    ("'2024-01-02 00:00+00'::instant", r#""2024-01-02T00:00:00.000Z""#),
];

/// Expressions whose type has no encoder, and the JSON of their text.
#[rustfmt::skip]
pub(super) const AS_TEXT: &[(&str, &str)] = &[
    ("'12.5'::money", r#""$12.50""#),
    ("B'101'", r#""101""#),
    ("'101'::varbit", r#""101""#),
    ("'(1,2)'::point", r#""(1,2)""#),
    ("'{\"(1,2)\"}'::point[]", r#""{\"(1,2)\"}""#),
    ("to_tsvector('simple', 'a b')", r#""'a':1 'b':2""#),
    ("'a=>1'::hstore", r#""\"a\"=>\"1\"""#),
    ("ROW(1, 'a')", r#""(1,a)""#),
    ("ROW(1, '(1,2)')::with_point", r#""(1,\"(1,2)\")""#),
    ("'pg_class'::regclass", r#""pg_class""#),
    ("'16/B374D848'::pg_lsn", r#""16/B374D848""#),
    ("'$.a'::jsonpath", r#""$.\"a\"""#),
];

/// Random values, and how PostgreSQL prints `value` in the form that is ours; quotes apart.
#[rustfmt::skip]
pub(super) const PRINTED: &[(&str, &str)] = &[
    ("((random() - 0.5) * 2 * 10::float8 ^ (random() * 25)::int)::numeric", "value"),
    ("((random() - 0.5)::numeric * 10::numeric ^ ((random() - 0.5) * 60)::int)::numeric(200, 40)", "value"),
    ("(round(random()::numeric, (n % 30)) * 10::numeric ^ (n % 50))::numeric", "value"),
    (
        "make_interval(months => ((random() - 0.5) * 100)::int * (n % 3), days => ((random() - 0.5) * 100)::int * (n % 2), secs => (random() - 0.5) * 1e6 * (n % 5))",
        "value",
    ),
    ("'1999-12-31'::date + ((random() - 0.5) * 2 * 700000)::int", "to_char(value, 'YYYY-MM-DD')"),
    (
        "'2000-01-01 00:00Z'::timestamptz + date_trunc(CASE WHEN n % 3 = 0 THEN 'milliseconds' ELSE 'microseconds' END, (random() - 0.5) * 3800 * interval '1 year')",
        "to_char(value, 'YYYY-MM-DD\"T\"HH24:MI:SS') || to_char(value, CASE WHEN extract(microsecond FROM value) % 1000 = 0 THEN '.MS' ELSE '.US' END) || 'Z'",
    ),
    ("('::'::inet + ((random() * 1e9)::int8 << (n % 34)) )", "format('%s', value)"),
    ("('0.0.0.0'::inet + (random() * 4e9)::int8)", "format('%s', value)"),
    ("set_masklen(('2001:db8::'::inet + ((random() * 1e9)::int8 << (n % 34))), n % 129)", "format('%s', value)"),
    ("gen_random_uuid()", "value"),
    ("(n - 1001)::int2", "value"),
];
