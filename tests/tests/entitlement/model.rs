//! What the standard says of an entity, read from its schema by this test alone, and random records of it.

use std::collections::BTreeMap;

use guitong_schemas::avro::Value;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::Value as Json;

use crate::canaries::{Canaries, Id};

const SCHEMAS: [(&str, &str, &str); 3] = [
    (
        "LegalEntity",
        include_str!("../../../schemas/entities/LegalEntity.avsc"),
        include_str!("../../../schemas/entities/LegalEntity.key.avsc"),
    ),
    (
        "NaturalPerson",
        include_str!("../../../schemas/entities/NaturalPerson.avsc"),
        include_str!("../../../schemas/entities/NaturalPerson.key.avsc"),
    ),
    (
        "CreditRecord",
        include_str!("../../../schemas/entities/CreditRecord.avsc"),
        include_str!("../../../schemas/entities/CreditRecord.key.avsc"),
    ),
];

pub(crate) const ENTITIES: usize = SCHEMAS.len();

/// Texts and names begin with one of these.
const TAGS: [&str; 3] = ["甲", "乙", "欧阳"];
/// Leading names of divisions, and what a mask to the county leaves of a text that begins so.
pub(crate) const DIVISIONS: [&str; 2] = ["广西壮族自治区南宁市青秀区", "南宁市"];

/// What the default mask of a kind is, and what its values look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Name,
    Identifier,
    Phone,
    Address,
    Date,
    Int,
    Decimal(u32),
    List,
}

impl Kind {
    fn of(kind: &str) -> Self {
        let mut parts = kind.split([':', ',']);
        match parts.next().unwrap() {
            "name" => Self::Name,
            "address" | "division" => Self::Address,
            "phone" | "mobile" => Self::Phone,
            "identifier" | "registration_no" | "citizen_id" | "uscc" | "org_code" | "project_code" => Self::Identifier,
            "date" => Self::Date,
            "integer" => Self::Int,
            "decimal" => Self::Decimal(parts.nth(1).unwrap().parse().unwrap()),
            "codes" => Self::List,
            "code" | "text" | "industry" | "education" => Self::Text,
            other => panic!("the test knows no kind {other}"),
        }
    }

    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Name | Self::Identifier | Self::Phone | Self::Address)
    }

    /// What texts of the kind begin with.
    pub(crate) fn tags(self) -> &'static [&'static str] {
        match self {
            Self::Identifier => &["450102", "450103", "110105"],
            Self::Phone => &["160", "0771"],
            Self::Address => &[DIVISIONS[0], DIVISIONS[1], "某路"],
            _ => &TAGS,
        }
    }

    /// What texts of the kind end with.
    fn tail(self) -> &'static str {
        if matches!(self, Self::Identifier | Self::Phone) { "0011" } else { "" }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) grade: u8,
    pub(crate) grade_person: Option<u8>,
    /// A value that is a citizen number is graded as one.
    pub(crate) may_be_citizen: bool,
}

/// A part of the key: its name, and the fields of which the first that is not empty is taken.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) from: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) entity: &'static str,
    pub(crate) fields: Vec<Field>,
    pub(crate) key: Vec<Part>,
    /// The field that says whether the record is about a person, and its value then.
    pub(crate) person: Option<(usize, String)>,
    pub(crate) birth: Option<usize>,
}

impl Model {
    pub(crate) fn new(number: usize) -> Self {
        let (entity, record, key) = SCHEMAS[number];
        let (record, key): (Json, Json) = (serde_json::from_str(record).unwrap(), serde_json::from_str(key).unwrap());
        let text = |of: &Json, name: &str| of[name].as_str().map(str::to_owned);
        let grade = |of: &Json, name: &str| text(of, name).map(|grade| grade[1..].parse().unwrap());
        let fields = record["fields"].as_array().unwrap().iter().map(|field| Field {
            name: text(field, "name").unwrap(),
            kind: Kind::of(field["kind"].as_str().unwrap()),
            grade: grade(field, "grade").unwrap(),
            grade_person: grade(field, "grade_person"),
            may_be_citizen: field["kind"].as_str().unwrap().starts_with("identifier"),
        });
        let mut fields: Vec<Field> = fields.collect();
        let at = |name: &str| fields.iter().position(|field| field.name == name).unwrap();
        let parts = key["fields"].as_array().unwrap().iter().map(|part| {
            let name = text(part, "name").unwrap();
            let from = match part["from"].as_array() {
                Some(from) => from.iter().map(|name| at(name.as_str().unwrap())).collect(),
                None => vec![at(&name)],
            };
            Part { name, from }
        });
        let key: Vec<Part> = parts.collect();
        let person = text(&record, "person").map(|text| {
            let (field, value) = text.split_once(" = ").unwrap();
            (at(field), value.to_owned())
        });
        let birth = text(&record, "birth").map(|name| at(&name));
        for &at in key.iter().flat_map(|part| &part.from) {
            fields[at].may_be_citizen = false;
        }
        Self { entity, fields, key, person, birth }
    }

    pub(crate) fn is_key(&self, field: usize) -> bool {
        self.key.iter().any(|part| part.from.contains(&field))
    }

    fn is_person(&self, values: &[Cell]) -> bool {
        let Some((field, person)) = &self.person else { return false };
        match &values[*field].value {
            Held::Text(text) => text == person,
            _ => true,
        }
    }

    /// Grade of a field of this record.
    pub(crate) fn grade(&self, field: usize, values: &[Cell]) -> u8 {
        let of = &self.fields[field];
        let is_child = self.birth.is_some_and(|birth| matches!(values[birth].value, Held::Date(born) if born > CHILD_SINCE));
        if is_child || of.may_be_citizen && values[field].citizen {
            return 3;
        }
        of.grade_person.filter(|_| self.is_person(values)).unwrap_or(of.grade)
    }

    /// Every grade that a value of the field can have.
    pub(crate) fn grades(&self, field: usize) -> Vec<u8> {
        let of = &self.fields[field];
        let highest = (self.birth.is_some() || of.may_be_citizen).then_some(3);
        [Some(of.grade), of.grade_person, highest].into_iter().flatten().collect()
    }
}

/// 2020-01-01: who was born later is a child until 2034. Nobody here was born between 2000 and then.
const CHILD_SINCE: i32 = 18_262;
const GROWN_UNTIL: i32 = 10_957;

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Held {
    Null,
    Text(String),
    Date(i32),
    Int(i64),
    Decimal(i64, u32),
    List(Vec<String>),
}

/// A field of a record with its canaries.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) value: Held,
    pub(crate) ids: Vec<Id>,
    pub(crate) citizen: bool,
}

impl Cell {
    const NULL: Self = Self { value: Held::Null, ids: Vec::new(), citizen: false };

    /// For the encoder.
    pub(crate) fn avro<'a>(&'a self, bytes: &'a mut Vec<u8>) -> Value<'a> {
        match &self.value {
            Held::Null => Value::Null,
            Held::Text(text) => Value::Text(text),
            Held::Date(days) => Value::Int(i64::from(*days)),
            Held::Int(number) => Value::Int(*number),
            Held::Decimal(unscaled, scale) => {
                bytes.extend(unscaled.to_be_bytes());
                Value::Decimal { unscaled: bytes, scale: i32::try_from(*scale).unwrap() }
            }
            Held::List(items) => Value::List(items.iter().map(|item| Value::Text(item)).collect()),
        }
    }
}

/// A number's text.
pub(crate) fn decimal(unscaled: i64, scale: u32) -> String {
    let unit = 10_i64.pow(scale);
    format!("{}.{:0width$}", unscaled / unit, unscaled % unit, width = scale as usize)
}

pub(crate) fn day(days: i32) -> String {
    let first = jiff::civil::date(1970, 1, 1);
    first.checked_add(jiff::Span::new().days(days)).unwrap().to_string()
}

/// Makes records.
#[derive(Debug)]
pub(crate) struct Maker<'m> {
    pub(crate) model: &'m Model,
    pub(crate) canaries: &'m mut Canaries,
    pub(crate) random: &'m mut StdRng,
}

/// A row of the department: what its key is made of stays as it is.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    fixed: BTreeMap<usize, Cell>,
    /// The parts of its key.
    pub(crate) key: Vec<String>,
    pub(crate) key_ids: Vec<Id>,
}

impl Maker<'_> {
    pub(crate) fn row(&mut self, number: usize) -> Row {
        let model = self.model;
        let mut fixed = BTreeMap::new();
        let person = self.random.random_bool(0.5);
        if let Some((field, value)) = &model.person {
            let other = ["1", "2"].into_iter().find(|other| other != value).unwrap();
            let value = [value.as_str(), other][usize::from(!person)].to_owned();
            fixed.insert(*field, Cell { value: Held::Text(value), ..Cell::NULL });
        }
        let (mut key, mut key_ids) = (Vec::new(), Vec::new());
        for part in &model.key {
            // Of a person the first ones, which are numbers of organisations, are not known.
            let taken = if person { part.from.iter().rev().nth(1).unwrap_or(&part.from[0]) } else { &part.from[0] };
            for &field in &part.from {
                let before = part.from.iter().position(|at| at == taken) > part.from.iter().position(|at| *at == field);
                let cell = if before { Cell::NULL } else { self.text(field, &format!("row {number}"), false) };
                fixed.insert(field, cell);
            }
            let Held::Text(text) = &fixed[taken].value else { panic!("a key is text") };
            key.push(text.clone());
            key_ids.extend(&fixed[taken].ids);
        }
        Row { fixed, key, key_ids }
    }

    /// A version of the row.
    pub(crate) fn values(&mut self, row: &Row, record: usize) -> Vec<Cell> {
        let fields = 0..self.model.fields.len();
        fields.map(|field| row.fixed.get(&field).cloned().unwrap_or_else(|| self.cell(field, record))).collect()
    }

    fn cell(&mut self, field: usize, record: usize) -> Cell {
        let of = &self.model.fields[field];
        if self.random.random_bool(0.12) {
            return Cell::NULL;
        }
        let what = format!("record {record}");
        let named = format!("{what}, {}", of.name);
        match of.kind {
            Kind::Date => {
                let child = self.random.random_bool(0.3);
                let days = if child {
                    self.random.random_range(CHILD_SINCE + 1..CHILD_SINCE + 2_000)
                } else {
                    self.random.random_range(0..GROWN_UNTIL)
                };
                Cell { value: Held::Date(days), ..Cell::NULL }
            }
            Kind::Int => {
                let number = Canaries::number(self.random);
                let id = self.canaries.keep(&number.to_string(), named);
                Cell { value: Held::Int(number), ids: vec![id], citizen: false }
            }
            Kind::Decimal(scale) => {
                let number = Canaries::number(self.random);
                let id = self.canaries.keep(&decimal(number, scale), named);
                Cell { value: Held::Decimal(number, scale), ids: vec![id], citizen: false }
            }
            Kind::List => {
                let items: Vec<Cell> = (0..self.random.random_range(1..3)).map(|_| self.text(field, &what, false)).collect();
                let ids = items.iter().flat_map(|item| item.ids.clone()).collect();
                let texts = items.into_iter().map(|item| match item.value {
                    Held::Text(text) => text,
                    other => panic!("{other:?}"),
                });
                Cell { value: Held::List(texts.collect()), ids, citizen: false }
            }
            _ if of.may_be_citizen && self.random.random_bool(0.2) => {
                let number = citizen_number(self.random.random_range(0..3_650), self.random.random_range(0..1_000));
                // By chance a number may come twice.
                match self.canaries.found(number.as_bytes()).is_empty() {
                    true => {
                        let id = self.canaries.keep(&number, named);
                        Cell { value: Held::Text(number), ids: vec![id], citizen: true }
                    }
                    false => Cell::NULL,
                }
            }
            _ => self.text(field, &what, true),
        }
    }

    /// A text with a canary; `odd`: it may hold what some sinks do not take, or what has to be escaped.
    fn text(&mut self, field: usize, what: &str, odd: bool) -> Cell {
        let of = &self.model.fields[field];
        let canary = Canaries::letters(self.random);
        let id = self.canaries.keep(&canary, format!("{what}, {}", of.name));
        let tail = match self.random.random_range(0..100) {
            0..3 if odd && of.kind == Kind::Text => "\0",
            3..10 if odd && of.kind == Kind::Text => "\",;\\ '\n%",
            _ => of.kind.tail(),
        };
        let tag = of.kind.tags().choose(self.random).unwrap();
        Cell { value: Held::Text(format!("{tag}{canary}{tail}")), ids: vec![id], citizen: false }
    }
}

/// A number that holds (GB 11643-1999), born in the years from 1970 on.
fn citizen_number(born: i32, sequence: u32) -> String {
    let body = format!("450103{}{sequence:03}", day(born).replace('-', ""));
    let weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let sum: u32 = body.chars().filter_map(|digit| digit.to_digit(10)).zip(weights).map(|(digit, weight)| digit * weight).sum();
    format!("{body}{}", char::from(b"10X98765432"[(sum % 11) as usize]))
}
