//! Random policies, and what each of them gives: the oracle. It shares nothing with the product but the words of a subscription.

use std::collections::BTreeMap;

use guitong_schemas::contract::subscription::{Approval, Mask};
use guitong_schemas::contract::{Name, Secret, Sharing, SinkConfig, SinkTable, Subscription};
use hmac::{Hmac, Mac as _};
use jiff::civil::Date;
use jiff::{Span, Timestamp};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use sha2::Sha256;

use crate::canaries::Ids;
use crate::model::{Cell, DIVISIONS, Held, Kind, Model, Row, day, decimal};

/// A condition on rows.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    /// An empty field cannot be judged, and its row is not granted.
    Begins(usize, &'static str),
    /// Whether it begins so or not; of an empty field, never and always.
    Guarded(usize, &'static str, bool),
    Above(usize, i64),
    Since(usize, i32),
    Both(Box<Test>, Box<Test>),
    Either(Box<Test>, Box<Test>),
}

impl Test {
    fn random(model: &Model, random: &mut StdRng) -> Self {
        let guarded = |random: &mut StdRng| {
            let (field, tag) = Self::text(model, random);
            Box::new(Self::Guarded(field, tag, random.random()))
        };
        let of = |wanted: fn(Kind) -> bool, random: &mut StdRng| {
            (0..model.fields.len()).filter(|&field| wanted(model.fields[field].kind)).choose(random)
        };
        match random.random_range(0..6) {
            0 => {
                let (field, tag) = Self::text(model, random);
                Self::Begins(field, tag)
            }
            1 => Self::Both(guarded(random), guarded(random)),
            2 => Self::Either(guarded(random), guarded(random)),
            3 => match of(|kind| kind == Kind::Int, random) {
                Some(field) => Self::Above(field, 9_750_000_000_000_000),
                None => *guarded(random),
            },
            4 => {
                let field = of(|kind| kind == Kind::Date, random).unwrap();
                Self::Since(field, random.random_range(3_000..19_000))
            }
            _ => *guarded(random),
        }
    }

    fn text(model: &Model, random: &mut StdRng) -> (usize, &'static str) {
        let person = model.person.as_ref().map(|(field, _)| *field);
        let texts = (0..model.fields.len()).filter(|&field| model.fields[field].kind.is_text() && Some(field) != person);
        let field = texts.choose(random).unwrap();
        (field, model.fields[field].kind.tags().choose(random).unwrap())
    }

    /// In CEL.
    fn source(&self, model: &Model) -> String {
        let name = |field: &usize| &model.fields[*field].name;
        match self {
            Self::Begins(field, tag) => format!("{}.startsWith('{tag}')", name(field)),
            Self::Guarded(field, tag, true) => format!("({0} != null && {0}.startsWith('{tag}'))", name(field)),
            Self::Guarded(field, tag, false) => format!("({0} == null || !{0}.startsWith('{tag}'))", name(field)),
            Self::Above(field, bound) => format!("{} > {bound}", name(field)),
            Self::Since(field, days) => format!("{} >= '{}'", name(field), day(*days)),
            Self::Both(one, other) => format!("{} && {}", one.source(model), other.source(model)),
            Self::Either(one, other) => format!("{} || {}", one.source(model), other.source(model)),
        }
    }

    fn holds(&self, values: &[Cell]) -> bool {
        match (self, self.field().map(|field| &values[field].value)) {
            (Self::Begins(_, tag), Some(Held::Text(text))) => text.starts_with(tag),
            (Self::Guarded(_, tag, wanted), Some(Held::Text(text))) => text.starts_with(tag) == *wanted,
            (Self::Guarded(_, _, wanted), _) => !wanted,
            (Self::Above(_, bound), Some(Held::Int(number))) => number > bound,
            (Self::Since(_, since), Some(Held::Date(days))) => days >= since,
            (Self::Both(one, other), _) => one.holds(values) && other.holds(values),
            (Self::Either(one, other), _) => one.holds(values) || other.holds(values),
            _ => false,
        }
    }

    fn field(&self) -> Option<usize> {
        match self {
            Self::Begins(field, _) | Self::Guarded(field, ..) | Self::Above(field, _) | Self::Since(field, _) => Some(*field),
            Self::Both(..) | Self::Either(..) => None,
        }
    }
}

/// What a subscription grants.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// 1 without condition, 2 with an approval, 3 not at all.
    sharing: u8,
    /// First and last day, counted from today.
    approval: Option<(Option<i32>, i32)>,
    fields: Vec<usize>,
    /// Masks that are declared.
    masks: BTreeMap<usize, Mask>,
    condition: Option<Test>,
    secret: String,
}

/// What a subscriber has of a row: how it is known, and its columns by their names.
pub(crate) type Given = (String, BTreeMap<String, Option<String>>);

/// Between the parts of a key; no generated text has it.
pub(crate) const BETWEEN: &str = "/";

impl Policy {
    pub(crate) fn random(model: &Model, random: &mut StdRng) -> Self {
        let open = random.random_bool(0.85);
        let mut policy = Self {
            sharing: if open { random.random_range(1..3) } else { random.random_range(1..4) },
            approval: open.then_some((None, 30)).or_else(|| random.random_bool(0.7).then(|| dates(random))),
            fields: Vec::new(),
            masks: BTreeMap::new(),
            condition: random.random_bool(0.7).then(|| Test::random(model, random)),
            secret: format!("secret {}", random.random::<u64>()),
        };
        policy.choose_fields(model, random);
        policy
    }

    fn choose_fields(&mut self, model: &Model, random: &mut StdRng) {
        let whole_key = random.random_bool(0.5);
        let part = random.random_range(0.2..0.9);
        let granted =
            |field: &usize| if model.is_key(*field) { whole_key || random.random_bool(0.3) } else { random.random_bool(part) };
        self.fields = (0..model.fields.len()).filter(granted).collect();
        if self.fields.is_empty() {
            self.fields.push(model.fields.len() - 1);
        }
        self.masks.clear();
        for &field in &self.fields {
            if whole_key && model.is_key(field) {
                self.masks.insert(field, Mask::None);
            } else if random.random_bool(0.5) {
                self.masks.insert(field, random_mask(model.fields[field].kind, random));
            }
        }
    }

    /// Another policy that came of this one.
    pub(crate) fn changed(&self, model: &Model, random: &mut StdRng) -> Self {
        let mut changed = self.clone();
        match random.random_range(0..8) {
            // Narrower.
            0 => {
                let least = changed.fields[0];
                changed.fields.retain(|field| *field == least || random.random_bool(0.5));
                changed.masks.retain(|field, _| changed.fields.contains(field));
            }
            1 => changed.masks.extend(self.fields.iter().filter(|_| random.random_bool(0.5)).map(|&field| (field, Mask::Drop))),
            2 => changed.condition = Some(Test::random(model, random)),
            3 => changed.masks.clear(),
            // Wider.
            4 => {
                changed.fields = (0..model.fields.len()).collect();
                changed.condition = None;
            }
            5 => changed.secret = format!("secret {}", random.random::<u64>()),
            6 => changed.choose_fields(model, random),
            _ => return Self::random(model, random),
        }
        changed
    }

    /// The same, and nothing flows any more.
    pub(crate) fn ended(&self, random: &mut StdRng) -> Self {
        match random.random_range(0..3) {
            0 => Self { sharing: 3, ..self.clone() },
            1 => Self { sharing: 2, approval: None, ..self.clone() },
            _ => Self { approval: Some((None, -1)), ..self.clone() },
        }
    }

    /// The same until today ends.
    pub(crate) fn until_today(&self) -> Self {
        Self { approval: Some((None, 0)), ..self.clone() }
    }

    pub(crate) fn is_open(&self) -> bool {
        let valid = self.approval.is_none_or(|(from, until)| from.is_none_or(|from| from <= 0) && until >= 0);
        valid && (self.sharing == 1 || self.sharing == 2 && self.approval.is_some())
    }

    pub(crate) fn sharing(&self) -> Sharing {
        match self.sharing {
            1 => Sharing::Unconditional,
            2 => Sharing::Conditional { condition: "经批准".into() },
            _ => Sharing::Refused { basis: "依法不予共享".into() },
        }
    }

    pub(crate) fn subscription(&self, model: &Model, name: &str, sink: SinkConfig, today: Date) -> Subscription {
        let name_of = |field: usize| model.fields[field].name.clone();
        let date = |days: i32| today.checked_add(Span::new().days(days)).unwrap();
        Subscription {
            name: Name::parse(name).unwrap(),
            subscriber: Name::parse("credit-office").unwrap(),
            resource: Name::parse("shared").unwrap(),
            purpose: "信用主体建档".into(),
            approval: self.approval.map(|(from, until)| Approval {
                number: "桂数共〔2026〕18号".into(),
                from: from.map(date),
                until: date(until),
            }),
            fields: self.fields.iter().map(|&field| name_of(field)).collect(),
            condition: self.condition.as_ref().map(|test| test.source(model)),
            unchanged: false,
            table: SinkTable::default(),
            masks: self.masks.iter().map(|(&field, &mask)| (name_of(field), mask)).collect(),
            sink,
            secret: Some(Secret::new(self.secret.clone())),
        }
    }

    fn mask(&self, model: &Model, field: usize, grade: u8) -> Mask {
        self.masks.get(&field).copied().unwrap_or_else(|| default_mask(model.fields[field].kind, grade))
    }

    /// Whether rows are known by their own key: all of what it is made of is granted, and no value of it is ever masked.
    pub(crate) fn is_clear(&self, model: &Model) -> bool {
        let clear = |field: usize| model.grades(field).into_iter().all(|grade| self.mask(model, field, grade) == Mask::None);
        model.key.iter().flat_map(|part| &part.from).all(|field| self.fields.contains(field) && clear(*field))
    }

    /// Names of the columns that are delivered, and whether each holds lists.
    pub(crate) fn columns(&self, model: &Model) -> BTreeMap<String, bool> {
        let of = |field: &usize| (model.fields[*field].name.clone(), model.fields[*field].kind == Kind::List);
        let mut columns: BTreeMap<_, _> = self.fields.iter().map(of).collect();
        if self.is_clear(model) {
            columns.extend(model.key.iter().filter(|part| part.from.len() > 1).map(|part| (part.name.clone(), false)));
        }
        columns
    }

    /// How the subscriber knows a row.
    pub(crate) fn key(&self, model: &Model, row: &Row) -> String {
        if self.is_clear(model) {
            return row.key.join(BETWEEN);
        }
        let part = |part: &String| [&u32::try_from(part.len()).unwrap().to_be_bytes()[..], part.as_bytes()].concat();
        self.hashed(&row.key.iter().flat_map(part).collect::<Vec<u8>>())
    }

    fn hashed(&self, bytes: &[u8]) -> String {
        let mut hash = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).unwrap();
        hash.update(bytes);
        hex::encode(&hash.finalize().into_bytes()[..16])
    }

    /// What the subscriber is given of a record; `None` where it is not to have the row.
    pub(crate) fn given(&self, model: &Model, row: &Row, values: &[Cell]) -> Option<Given> {
        if self.condition.as_ref().is_some_and(|test| !test.holds(values)) {
            return None;
        }
        let shown = |field: &usize| {
            let mask = self.mask(model, *field, model.grade(*field, values));
            (model.fields[*field].name.clone(), self.masked(mask, &values[*field].value))
        };
        let mut cells: BTreeMap<_, _> = self.fields.iter().map(shown).collect();
        if self.is_clear(model) {
            let parts = model.key.iter().zip(&row.key).filter(|(part, _)| part.from.len() > 1);
            cells.extend(parts.map(|(part, text)| (part.name.clone(), Some(text.clone()))));
        }
        Some((self.key(model, row), cells))
    }

    /// Canaries that the subscriber may have of a record.
    pub(crate) fn granted(&self, model: &Model, row: &Row, values: &[Cell]) -> Ids {
        let mut granted = Ids::new();
        if self.condition.as_ref().is_none_or(|test| test.holds(values)) {
            let clear = |field: &&usize| self.mask(model, **field, model.grade(**field, values)) == Mask::None;
            granted.extend(self.fields.iter().filter(clear).flat_map(|field| &values[*field].ids));
            granted.extend(self.granted_key(model, row));
        }
        granted
    }

    /// Canaries of a row's key, where the subscriber may have those of every row.
    pub(crate) fn granted_key(&self, model: &Model, row: &Row) -> Ids {
        if self.is_clear(model) { row.key_ids.iter().copied().collect() } else { Ids::new() }
    }

    pub(crate) fn is_conditional(&self) -> bool {
        self.condition.is_some()
    }

    /// As text; lists as JSON.
    fn masked(&self, mask: Mask, value: &Held) -> Option<String> {
        let text = match (mask, value) {
            (_, Held::Null) | (Mask::Drop, _) => return None,
            (_, Held::List(items)) => {
                let items: Vec<_> = items.iter().map(|item| self.masked_text(mask, item)).collect();
                return Some(serde_json::to_string(&items).unwrap());
            }
            (_, Held::Text(text)) => text.clone(),
            (_, Held::Date(days)) => day(*days),
            (_, Held::Int(number)) => number.to_string(),
            (_, Held::Decimal(unscaled, scale)) => decimal(*unscaled, *scale),
        };
        Some(self.masked_text(mask, &text))
    }

    fn masked_text(&self, mask: Mask, text: &str) -> String {
        let characters: Vec<char> = text.chars().collect();
        let ends = |head: usize, tail: usize, hidden: usize| {
            let (head, tail) = if characters.len() < head + tail + hidden { (0, 0) } else { (head, tail) };
            let hides = |at: usize| at >= head && at + tail < characters.len();
            characters.iter().enumerate().map(|(at, character)| if hides(at) { '*' } else { *character }).collect::<String>()
        };
        match mask {
            Mask::None => text.to_owned(),
            Mask::Name => ends(if text.starts_with("欧阳") { 2 } else { 1 }, 0, 1),
            Mask::Identifier | Mask::Card => ends(6, 4, 4),
            Mask::Phone => ends(3, 4, 4),
            Mask::Address => DIVISIONS.into_iter().find(|name| text.starts_with(name)).unwrap_or("****").to_owned(),
            Mask::Year => text[..4].to_owned(),
            Mask::Hash => self.hashed(&[&b"\xFF"[..], text.as_bytes()].concat()),
            Mask::Drop => panic!("nothing is left of it"),
        }
    }
}

fn dates(random: &mut StdRng) -> (Option<i32>, i32) {
    [(None, -1), (Some(-400), -30), (Some(1), 30), (Some(-10), 0), (Some(0), 30)].into_iter().choose(random).unwrap()
}

/// One that goes with the kind.
fn random_mask(kind: Kind, random: &mut StdRng) -> Mask {
    let all: &[Mask] = match kind {
        Kind::Date => &[Mask::None, Mask::Year, Mask::Hash, Mask::Drop],
        Kind::Int | Kind::Decimal(_) => &[Mask::None, Mask::Hash, Mask::Drop],
        _ => &[
            Mask::None,
            Mask::None,
            Mask::Name,
            Mask::Identifier,
            Mask::Phone,
            Mask::Card,
            Mask::Address,
            Mask::Hash,
            Mask::Drop,
        ],
    };
    *all.choose(random).unwrap()
}

/// Clear up to G1; above, what the kind's own mask is.
fn default_mask(kind: Kind, grade: u8) -> Mask {
    match kind {
        _ if grade < 2 => Mask::None,
        Kind::Name => Mask::Name,
        Kind::Address => Mask::Address,
        Kind::Phone => Mask::Phone,
        Kind::Identifier => Mask::Identifier,
        Kind::Date => Mask::Year,
        Kind::Text | Kind::Int | Kind::Decimal(_) | Kind::List => Mask::Drop,
    }
}

/// A zone in which it is noon, so that no day ends while a test runs; or one in which this day ends after `left` seconds.
pub(crate) fn zone(left: Option<i64>) -> jiff::tz::TimeZone {
    let of_day = Timestamp::now().as_second().rem_euclid(86_400);
    let wanted = left.map_or(43_200, |left| 86_400 - left);
    let offset = (wanted - of_day + 43_200).rem_euclid(86_400) - 43_200;
    jiff::tz::TimeZone::fixed(jiff::tz::Offset::from_seconds(i32::try_from(offset).unwrap()).unwrap())
}
