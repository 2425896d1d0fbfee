//! Random rows of every type: what the first load writes of a row and what the stream writes of it are the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use guitong_schemas::avro::{DecodePlan, frame};
use guitong_tests::servers::postgres::{Options, Postgres};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::binary::forms;
use super::harness::*;

const ROWS: usize = 300;

/// A type and how a value of it is written in SQL, without the quotes.
type Kind = (&'static str, fn(&mut StdRng) -> String);

const TYPES: &str = "CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION citext; CREATE EXTENSION cube;
    CREATE TYPE state AS ENUM ('在营', '注销, 迁出', 'q\"uote', '');
    CREATE DOMAIN amount AS numeric(12, 2);
    CREATE DOMAIN tags AS text[];
    CREATE TYPE pair AS (a int, b text);";

const KINDS: &[Kind] = &[
    ("bool", |random| random.random::<bool>().to_string()),
    ("int2", |random| random.random::<i16>().to_string()),
    ("int4", |random| random.random::<i32>().to_string()),
    ("int8", |random| random.random::<i64>().to_string()),
    ("oid", |random| random.random::<u32>().to_string()),
    ("float4", |random| float(random, |random| format!("{:e}", finite(f32::from_bits(random.random()))))),
    ("float8", |random| float(random, |random| format!("{:e}", finite_double(f64::from_bits(random.random()))))),
    ("numeric", |random| {
        let (whole, scale) = if random.random_bool(0.1) { (9_000, 3_000) } else { (120, 60) };
        one_of(random, &["NaN", "Infinity", "-Infinity"], |random| decimal(random, whole, scale))
    }),
    ("numeric(18, 2)", |random| one_of(random, &["NaN"], |random| decimal(random, 15, 2))),
    ("numeric(38, 10)", |random| decimal(random, 27, 10)),
    ("amount", |random| decimal(random, 9, 2)),
    ("money", |random| decimal(random, 15, 2)),
    ("date", |random| one_of(random, &["infinity", "-infinity", "5874897-12-31", "4713-01-01 BC"], date)),
    ("time", |random| one_of(random, &["24:00:00"], |random| clock(random, 6))),
    ("time(2)", |random| clock(random, 2)),
    ("timetz", |random| format!("{}{}", clock(random, 6), zone(random))),
    ("timestamp", |random| moment(random, 6)),
    ("timestamp(3)", |random| moment(random, 3)),
    ("timestamptz", |random| moment(random, 6)),
    ("timestamptz(0)", |random| moment(random, 0)),
    ("interval", interval),
    ("text", text),
    ("varchar(40)", text),
    ("char(40)", text),
    ("\"char\"", |random| char::from(random.random_range(b' '..127)).to_string()),
    ("name", text),
    ("citext", text),
    ("bytea", bytes),
    ("uuid", |random| format!("{:032x}", random.random::<u128>())),
    ("json", |random| format!("{{\"a\":  {}, \"a\": {}}}", json_text(random), random.random::<i32>())),
    ("jsonb", |random| format!("[{}, {{\"桂\": {}}}, null]", json_text(random), json_number(random))),
    ("xml", |random| format!("<?xml version=\"1.0\"?><a b=\"桂\">{}</a>", random.random::<u8>())),
    ("state", |random| one_of(random, &["注销, 迁出", "q\"uote", ""], |_| "在营".to_owned())),
    ("state[]", |random| array(random, |random| one_of(random, &["\"注销, 迁出\"", "\"q\\\"uote\""], |_| "在营".to_owned()))),
    ("int4[]", |random| array(random, |random| random.random::<i32>().to_string())),
    ("text[]", |random| array(random, item)),
    ("tags", |random| array(random, item)),
    ("numeric(9, 3)[]", |random| array(random, |random| decimal(random, 6, 3))),
    ("timestamptz[]", |random| array(random, |random| format!("\"{}\"", moment(random, 6)))),
    ("bytea[]", |random| array(random, |random| format!("\"{}\"", bytes(random).replace('\\', "\\\\")))),
    ("uuid[]", |random| array(random, |random| format!("{:032x}", random.random::<u128>()))),
    ("bool[]", |random| array(random, |random| random.random::<bool>().to_string())),
    ("date[]", |random| array(random, |random| format!("\"{}\"", date(random)))),
    ("float8[]", |random| array(random, |random| float(random, |random| format!("{:e}", random.random::<f64>())))),
    ("time(3)[]", |random| array(random, |random| clock(random, 3))),
    ("interval[]", |random| array(random, |random| format!("\"{}\"", interval(random)))),
    ("inet[]", |random| array(random, |random| format!("10.1.{}.1", random.random::<u8>()))),
    ("json[]", |random| array(random, |random| format!("\"{{\\\"a\\\":  {}}}\"", random.random::<i32>()))),
    ("bit(11)", |random| bits(random, 11)),
    ("bit(1)", |random| bits(random, 1)),
    ("varbit", |random| {
        let length = random.random_range(0..70);
        bits(random, length)
    }),
    ("point", |random| format!("({:e},{:e})", random.random::<f64>(), random.random::<f64>() - 0.5)),
    ("box", |random| format!("(({},{}),({},{}))", random.random::<i8>(), random.random::<i8>(), random.random::<i8>(), 0.5)),
    ("line", |random| format!("{{{},{},0.5}}", i32::from(random.random::<u16>()) + 1, random.random::<i8>())),
    ("lseg", |random| format!("[{},{}]", place(random), place(random))),
    ("path", |random| format!("[{},{},{}]", place(random), place(random), place(random))),
    ("polygon", |random| format!("({},{},{})", place(random), place(random), place(random))),
    ("circle", |random| format!("<{},{}>", place(random), random.random::<u8>())),
    ("int4range", |random| one_of(random, &["empty", "(,)"], |random| format!("[{},40000)", random.random::<i16>()))),
    ("tstzrange", |random| one_of(random, &["empty"], |random| format!("[\"{}\",infinity)", moment(random, 6)))),
    ("int8range", |random| format!("[{},)", random.random::<i32>())),
    ("numrange", |random| format!("[{},70000.5]", random.random::<i16>())),
    ("daterange", |random| format!("[{},infinity]", date(random))),
    ("tsrange", |random| one_of(random, &["(,)"], |random| format!("(\"{}\",infinity]", moment(random, 6)))),
    ("nummultirange", |random| format!("{{[{},5000),(6000,)}}", random.random_range(-4000..4000))),
    ("inet", |random| format!("10.{}.{}.1/{}", random.random::<u8>(), random.random::<u8>(), random.random_range(0..33))),
    ("cidr", |random| format!("fd{:02x}::/{}", random.random::<u8>(), random.random_range(16..129))),
    ("macaddr", |random| format!("{:012x}", random.random::<u64>() >> 16)),
    ("macaddr8", |random| format!("{:016x}", random.random::<u64>())),
    ("regclass", |random| one_of(random, &["pg_type"], |_| "pg_class".to_owned())),
    ("pair", |random| format!("({},{})", random.random::<i32>(), item(random))),
    ("ltree", |random| format!("top.n{}", random.random::<u16>())),
    ("hstore", |random| format!("a=>{}, \"b c\"=>NULL", item(random))),
    ("cube", |random| format!("({},{})", random.random::<i16>(), random.random::<i8>())),
    ("tsvector", |random| format!("w{}:1A b:{}", random.random::<u8>(), random.random_range(1..90))),
    ("tsquery", |random| format!("a & !b{}", random.random::<u8>())),
    ("pg_lsn", |random| format!("{:X}/{:X}", random.random::<u16>(), random.random::<u32>())),
];

/// Those whose tables are read in binary.
const PLAIN: &[&str] = &[
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "float4",
    "float8",
    "numeric",
    "numeric(18, 2)",
    "numeric(38, 10)",
    "amount",
    "date",
    "time",
    "time(2)",
    "timestamp",
    "timestamp(3)",
    "timestamptz",
    "timestamptz(0)",
    "text",
    "varchar(40)",
    "char(40)",
    "name",
    "bytea",
    "uuid",
    "json",
    "jsonb",
    "state",
];

fn one_of(random: &mut StdRng, special: &[&str], other: impl Fn(&mut StdRng) -> String) -> String {
    let rare = random.random_bool(0.2);
    special.choose(random).filter(|_| rare).map_or_else(|| other(random), |value| (*value).to_owned())
}

fn float(random: &mut StdRng, other: impl Fn(&mut StdRng) -> String) -> String {
    one_of(random, &["NaN", "Infinity", "-Infinity", "-0", "0.1", "1e15", "1e-5"], other)
}

/// Subnormal numbers are out of range for some servers' input.
fn finite(value: f32) -> f32 {
    if value.is_normal() { value } else { 1.5 }
}

fn finite_double(value: f64) -> f64 {
    if value.is_normal() { value } else { 1.5 }
}

/// At most so many digits before and behind the point.
fn decimal(random: &mut StdRng, whole: usize, scale: usize) -> String {
    let mut digits = |most: usize| -> String {
        (0..random.random_range(0..=most)).map(|_| char::from(random.random_range(b'0'..=b'9'))).collect()
    };
    let (whole, part) = (digits(whole), digits(scale));
    format!("{}0{whole}.{part}0", if random.random::<bool>() { "-" } else { "" }).trim_end_matches('0').to_owned() + "0"
}

fn date(random: &mut StdRng) -> String {
    let (month, day) = (random.random_range(1..=12), random.random_range(1..=28));
    match random.random_range(0..4) {
        0 => format!("{:04}-{month:02}-{day:02} BC", random.random_range(1..4700)),
        1 => format!("{:04}-{month:02}-{day:02}", random.random_range(1..100_000)),
        _ => format!("{:04}-{month:02}-{day:02}", random.random_range(1500..2100)),
    }
}

fn clock(random: &mut StdRng, digits: usize) -> String {
    let (hour, minute, second) = (random.random_range(0..24), random.random_range(0..60), random.random_range(0..60));
    let fraction = random.random_range(0..10_u32.pow(u32::try_from(digits).unwrap()));
    format!("{hour:02}:{minute:02}:{second:02}.{fraction:0digits$}")
}

fn zone(random: &mut StdRng) -> String {
    format!("{:+03}:{:02}", random.random_range(-15..=15), random.random_range(0..60))
}

fn moment(random: &mut StdRng, digits: usize) -> String {
    let special = ["infinity", "-infinity", "294276-12-31 23:59:59.999999", "4713-01-02 00:00:00 BC"];
    one_of(random, if digits == 6 { &special } else { &special[..2] }, |random| {
        let date = date(random);
        let (day, era) = date.split_once(' ').unwrap_or((&date, ""));
        format!("{day} {} {era}", clock(random, digits)).trim_end().to_owned()
    })
}

fn interval(random: &mut StdRng) -> String {
    let (months, days, clock) = (random.random::<i16>(), random.random::<i16>(), clock(random, 6));
    format!("{months} mons {days} days {}{clock}", if random.random::<bool>() { "-" } else { "" })
}

/// Characters that mean something to COPY, to arrays, to quoted text, or to nobody.
fn text(random: &mut StdRng) -> String {
    const ALPHABET: &[&str] = &[
        "a", "Z", " ", "\t", "\n", "\r", "\\", "\\N", "\\.", "'", "\"", ",", "{", "}", "(", "NULL", "桂", "韦", "😀", "é",
        "\u{7f}",
    ];
    (0..random.random_range(0..10)).map(|_| *ALPHABET.choose(random).unwrap()).collect()
}

fn bytes(random: &mut StdRng) -> String {
    let length = random.random_range(0..30);
    format!("\\x{}", hex::encode((0..length).map(|_| random.random::<u8>()).collect::<Vec<_>>()))
}

fn place(random: &mut StdRng) -> String {
    format!("({:e},{})", random.random::<f64>() - 0.5, random.random::<i8>())
}

fn bits(random: &mut StdRng, length: usize) -> String {
    (0..length).map(|_| if random.random::<bool>() { '1' } else { '0' }).collect()
}

fn json_text(random: &mut StdRng) -> String {
    serde_json::to_string(&text(random)).unwrap()
}

fn json_number(random: &mut StdRng) -> String {
    format!("{}.{:020}", random.random::<i32>(), random.random::<u64>())
}

/// Text as an element of an array, a field of a row or a value of an hstore is quoted.
fn item(random: &mut StdRng) -> String {
    format!("\"{}\"", text(random).replace('\\', "\\\\").replace('"', "\\\""))
}

fn array(random: &mut StdRng, element: impl Fn(&mut StdRng) -> String) -> String {
    let shape = random.random_range(0..4);
    let mut list = |length: usize| -> String {
        let items: Vec<String> =
            (0..length).map(|_| if random.random_bool(0.2) { "NULL".to_owned() } else { element(random) }).collect();
        format!("{{{}}}", items.join(","))
    };
    match shape {
        0 => "{}".to_owned(),
        1 => format!("{{{},{}}}", list(3), list(3)),
        _ => list(4),
    }
}

fn insert(random: &mut StdRng, kinds: &[Kind]) -> String {
    let mut rows = String::new();
    for id in 0..ROWS {
        let _ = write!(rows, "{}({id}", if id == 0 { "INSERT INTO t VALUES " } else { ",\n" });
        for (_, value) in kinds {
            match random.random_bool(0.1) {
                true => rows.push_str(",NULL"),
                false => drop(write!(rows, ",'{}'", value(random).replace('\'', "''"))),
            }
        }
        rows.push(')');
    }
    rows
}

/// Bytes of each field by the row's id, for the records with this operation.
async fn rows_of(exchange: &Exchange, operation: char) -> BTreeMap<i64, Vec<Vec<u8>>> {
    let mut rows = BTreeMap::new();
    for record in exchange.records("raw.register.public.t").await {
        let Some(value) = record.value else { continue };
        let (id, body) = frame::read(&value).unwrap();
        let plan = DecodePlan::compile(&exchange.schema(id)).unwrap();
        let envelope = plan.envelope(body).unwrap();
        if envelope.operation.code() != operation.to_string() {
            continue;
        }
        let mut spans = Vec::new();
        plan.spans(body, &mut spans).unwrap();
        let guitong_schemas::avro::Value::Int(id) = envelope.after.unwrap()[0] else { panic!("no id") };
        rows.insert(id, spans.into_iter().map(|span| body[span].to_vec()).collect());
    }
    rows
}

/// Loads random rows of these types, streams them in text and as one that asks for binary gets them, and compares; then what the
/// server was asked.
async fn first_load_and_stream_agree(kinds: &[Kind]) -> String {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let server =
        Postgres::start_with(Options::default().set("log_statement", "all").set("log_replication_commands", "on")).await.unwrap();
    server.execute(TYPES).await.unwrap();
    let columns: Vec<String> = kinds.iter().enumerate().map(|(at, (kind, _))| format!("c{at} {kind}")).collect();
    server.execute(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", columns.join(", "))).await.unwrap();
    server.execute(STRANGE_DEFAULTS).await.unwrap();
    server.execute(&insert(&mut random, kinds)).await.unwrap();
    let (exchange, other) = (Exchange::new().await, Exchange::new().await);
    let text = prepared(&server).await;
    let mut binary = text.clone();
    config(&mut binary).slot = "binary".to_owned();
    config(&mut binary).binary = true;
    let mut sessions = [exchange.connect(&text).await.unwrap(), other.connect(&binary).await.unwrap()];
    for session in &mut sessions {
        assert_eq!(session.load().await.len(), ROWS);
    }
    // A new row is sent whole; of an updated one, what is stored out of line and did not change is not.
    server
        .execute("CREATE TEMP TABLE kept AS TABLE t; DELETE FROM t; INSERT INTO t SELECT * FROM kept ORDER BY id")
        .await
        .unwrap();
    for session in &mut sessions {
        session.take(2 * ROWS).await;
    }
    let loaded = rows_of(&exchange, 'r').await;
    let streams = [rows_of(&exchange, 'c').await, rows_of(&other, 'c').await];
    for (streamed, form) in streams.iter().zip(["text", "binary"]) {
        assert_eq!((loaded.len(), streamed.len()), (ROWS, ROWS));
        for (id, row) in &loaded {
            assert_eq!(row.len(), kinds.len() + 1);
            for (at, (kind, _)) in kinds.iter().enumerate() {
                let streamed = &streamed[id][at + 1];
                assert_eq!(row[at + 1], *streamed, "row {id}, {kind}: bytes of the first load and of the stream in {form}");
            }
        }
    }
    for (at, (kind, _)) in kinds.iter().enumerate() {
        let different: BTreeSet<_> = loaded.values().map(|row| &row[at + 1]).collect();
        assert!(different.len() > 1, "{kind}: every row has the same bytes, so nothing was compared");
    }
    let plain = kinds.iter().all(|(kind, _)| PLAIN.contains(kind));
    assert_eq!((forms(&server, SLOT), forms(&server, "binary")), (vec![false], vec![plain]));
    std::fs::read_to_string(server.log_path()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_rows_of_every_type_have_the_same_bytes_from_first_load_and_stream() {
    let asked = first_load_and_stream_agree(KINDS).await;
    assert!(asked.contains("TO STDOUT; ") && !asked.contains("(FORMAT binary)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_rows_that_are_read_in_binary_have_the_bytes_of_the_stream() {
    let plain: Vec<Kind> = KINDS.iter().filter(|(kind, _)| PLAIN.contains(kind)).copied().collect();
    assert_eq!(plain.len(), PLAIN.len());
    let asked = first_load_and_stream_agree(&plain).await;
    assert!(asked.contains("TO STDOUT (FORMAT binary)") && !asked.contains("TO STDOUT; "));
}
