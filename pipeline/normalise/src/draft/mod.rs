//! Drafts how a department's table becomes an entity of the standard: for each field the column that fits best, what has to be done to its
//! values, how sure that is, and why.
//!
//! Three things are weighed: what a column is called ([`words`], [`vocabulary`]), what its sampled values are like ([`evidence`]), and that
//! each column goes to one field, so that all together fit best ([`assign`]). Values can forbid what a name says; a name without values is
//! never certain. [`transform`] says what is done to the values, [`write`] makes a resource's file of it. Everything here is pure: it knows a
//! table by its profile alone.

mod assign;
mod evidence;
mod transform;
mod vocabulary;
mod words;
mod write;

use guitong_schemas::profile::{ColumnProfile, TableProfile};
use guitong_schemas::standard::{Entity, EntityField, FieldKind, Grade, Obligation, Standard};
use serde::Serialize;

use self::evidence::{Evidence, Values};
pub use self::transform::Transform;
use self::vocabulary::{Names, Nearness};
use self::words::ColumnWords;
pub use self::write::Heading;

/// What has to speak for a field at least.
const LEAST: f64 = 0.55;
/// A name that is nearer to something that is never mapped.
const NOTHING: f64 = 0.98;
/// Two choices that are nearer to each other than this are doubtful.
const CLOSE: f64 = 0.1;
/// Where something of the transform is a guess.
const UNSURE: f64 = 0.84;
/// What stands for values where there are none: a name has to be one of the standard's own words then to be nearly certain.
const UNSEEN: f64 = 0.43;
/// A name that is surely that of a datum, without a look at the rest of the table.
const NAMED: f64 = 0.85;
/// Never certain.
const MOST: f64 = 0.99;

/// A drafted mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// One for each field that something was found for, in the entity's order.
    pub lines: Vec<Line>,
    /// Columns that no field takes, in the table's order.
    pub left_out: Vec<LeftOut>,
    /// Fields for which nothing was found, in the entity's order.
    pub missing: Vec<String>,
}

/// How one field is made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// `None` for a constant.
    pub column: Option<String>,
    pub field: String,
    pub transform: Transform,
    /// From 0 to 1.
    pub confidence: f64,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeftOut {
    pub column: String,
    pub reason: String,
}

/// Drafts the mapping of a table to an entity.
#[must_use]
pub fn draft(table: &TableProfile, entity: &Entity, standard: &Standard) -> Draft {
    let matched = Matched::of(table, entity);
    let mut lines: Vec<Line> = matched.lines(standard);
    share_citizen_numbers(&mut lines, &matched);
    split_glued(&mut lines, &matched);
    own_key(&mut lines, &matched);
    constants(&mut lines, &matched);
    lines.sort_by_key(|line| entity.field(&line.field).map(EntityField::index));
    let has = |field: &&EntityField| lines.iter().any(|line| line.field == field.name);
    let missing = entity.fields.iter().filter(|field| !has(field)).map(|field| field.name.clone()).collect();
    let reads =
        |line: &Line, name: &str| line.column.as_deref() == Some(name) || line.transform.unit_from.as_deref() == Some(name);
    let taken = |column: &ColumnProfile| lines.iter().any(|line| reads(line, &column.name));
    let free = matched.columns.iter().filter(|column| !taken(column.profile));
    let left_out = free.map(|column| LeftOut { column: column.profile.name.clone(), reason: column.why_nothing() }).collect();
    Draft { lines, left_out, missing }
}

/// Takes from a profile that is to be shown the values of columns that are probably personal (G2 or G3): by the field that a draft gives them,
/// in the entity that fits the table best, or by a name that is that of a person's datum in any.
pub fn withhold_personal(table: &mut TableProfile, standard: &Standard) {
    let entities = standard.entities().map(|entity| Matched::of(table, entity));
    let Some(best) = entities.max_by(|left, right| left.fit().total_cmp(&right.fit())) else { return };
    let drafted: Vec<(String, Grade)> =
        best.pairs().map(|(_, column, field)| (column.profile.name.clone(), grade(field))).collect();
    let named = |column: &ColumnProfile| {
        let words = ColumnWords::of(&column.name, column.comment.as_deref());
        let near = |entity: &Entity| {
            let fields = Names::of(entity, std::iter::empty()).fields(&column.name, &words);
            let near =
                entity.fields.iter().zip(fields).filter(|(field, near)| near.score >= NAMED && is_personal_kind(&field.kind));
            near.map(|(field, _)| field.grade).max()
        };
        standard.entities().filter_map(|entity| near(entity)).max().unwrap_or(Grade::G0)
    };
    let grades: Vec<Grade> = table
        .columns
        .iter()
        .map(|column| match drafted.iter().find(|(name, _)| *name == column.name) {
            Some((_, grade)) => *grade,
            None => named(column),
        })
        .collect();
    for (column, grade) in table.columns.iter_mut().zip(grades) {
        if grade >= Grade::G2 {
            column.withhold(&format!("probably personal ({})", grade.as_str()));
        }
    }
}

/// The grade of a field's values by themselves: a code says little of whom it is about, other values may be a person's.
fn grade(field: &EntityField) -> Grade {
    if field.code_list().is_some() { field.grade } else { field.highest_grade() }
}

fn is_personal_kind(kind: &FieldKind) -> bool {
    matches!(
        kind,
        FieldKind::Name { .. }
            | FieldKind::Address { .. }
            | FieldKind::Phone { .. }
            | FieldKind::Mobile
            | FieldKind::CitizenId
            | FieldKind::BankCard
            | FieldKind::Identifier { .. }
    )
}

/// A column with everything that is known of it.
struct Candidate<'t> {
    profile: &'t ColumnProfile,
    words: ColumnWords,
    /// For each field of the entity.
    names: Vec<Nearness>,
    evidence: Vec<Option<Evidence>>,
    nothing: (Nearness, &'static str),
    /// What speaks for each field.
    scores: Vec<f64>,
}

struct Matched<'t> {
    table: &'t TableProfile,
    entity: &'t Entity,
    columns: Vec<Candidate<'t>>,
    /// Index of each column's field.
    chosen: Vec<Option<usize>>,
}

impl<'t> Matched<'t> {
    fn of(table: &'t TableProfile, entity: &'t Entity) -> Self {
        let names = Names::of(entity, table.columns.iter().map(|column| column.name.as_str()));
        let columns: Vec<Candidate<'t>> =
            table.columns.iter().map(|column| Candidate::of(table, column, entity, &names)).collect();
        // A column may also go to no field: each has a place of its own for that, behind the fields.
        let row = |at: usize, column: &Candidate<'_>| {
            let stay = LEAST.max(NOTHING * column.nothing.0.score);
            let places = (0..columns.len()).map(|place| if place == at { stay } else { f64::from(-100) });
            // Of two that are alike the first is meant.
            let later = at as f64 * 1e-4;
            column.scores.iter().map(|score| score - later).chain(places).collect::<Vec<f64>>()
        };
        let scores: Vec<Vec<f64>> = columns.iter().enumerate().map(|(at, column)| row(at, column)).collect();
        let chosen = assign::best(&scores).into_iter().map(|place| (place < entity.fields.len()).then_some(place)).collect();
        Self { table, entity, columns, chosen }
    }

    /// How well the entity fits the table as a whole.
    fn fit(&self) -> f64 {
        self.pairs().map(|(_, column, field)| column.score(field.index())).sum()
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, &Candidate<'t>, &'t EntityField)> + '_ {
        let pairs = self.columns.iter().zip(&self.chosen).enumerate();
        pairs.filter_map(|(at, (column, chosen))| Some((at, column, self.entity.fields.get((*chosen)?)?)))
    }

    fn lines(&self, standard: &Standard) -> Vec<Line> {
        let line = |(at, column, field): (usize, &Candidate<'t>, &'t EntityField)| {
            let (confidence, doubt) = self.confidence(at, column, field);
            let (transform, unsure) = transform::of(self.table, column.profile, field, standard);
            // A code list that was guessed makes the whole line less sure than its column is.
            let confidence = if unsure.is_some() || transform.is_open() { confidence.min(UNSURE) } else { confidence };
            let reason = [Some(column.reason(field)), doubt, unsure].into_iter().flatten().collect::<Vec<_>>().join("; ");
            let column = Some(column.profile.name.clone());
            Line { column, field: field.name.clone(), transform, confidence: rounded(confidence), reason }
        };
        self.pairs().map(line).collect()
    }

    /// How sure it is that a column is a field's, and what makes it doubtful.
    fn confidence(&self, at: usize, column: &Candidate<'t>, field: &EntityField) -> (f64, Option<String>) {
        let index = field.index();
        let score = column.score(index);
        let values = match column.evidence.get(index).and_then(Option::as_ref) {
            None => UNSEEN,
            Some(evidence) if evidence.weight > 0.0 => 0.6 + (0.8 * evidence.weight).min(0.4),
            Some(evidence) => 0.5 + evidence.weight.max(-0.5),
        };
        let sure = (0.75 * column.names.get(index).map_or(0.0, |name| name.score) + 0.25 * values).min(MOST);
        // Another column would do as well, and goes nowhere.
        let rival = self.columns.iter().enumerate().find(|(other, rival)| {
            *other != at && self.chosen.get(*other) == Some(&None) && rival.score(index) > score - CLOSE && !rival.is_nothing()
        });
        if let Some((_, rival)) = rival {
            return (0.8 * sure, Some(format!("`{}` would do nearly as well", rival.profile.name)));
        }
        // Another field would take the column as well, and has no better one.
        let served =
            |other: usize| self.pairs().any(|(_, column, field)| field.index() == other && column.score(other) >= score - CLOSE);
        let other = self
            .entity
            .fields
            .iter()
            .find(|other| other.index() != index && column.score(other.index()) > score - CLOSE && !served(other.index()));
        match other {
            Some(other) => (0.85 * sure, Some(format!("it could be `{}`, too", other.name))),
            None => (sure, None),
        }
    }
}

impl<'t> Candidate<'t> {
    fn of(table: &TableProfile, profile: &'t ColumnProfile, entity: &Entity, names: &Names<'_>) -> Self {
        let words = ColumnWords::of(&profile.name, profile.comment.as_deref());
        let nothing = names.nothing(&profile.name, &words);
        let names = names.fields(&profile.name, &words);
        let values = Values::of(table, profile);
        let evidence: Vec<Option<Evidence>> =
            entity.fields.iter().map(|field| values.as_ref().map(|values| values.weigh(field))).collect();
        let score = |((field, name), evidence): ((&EntityField, &Nearness), &Option<Evidence>)| {
            let weight = evidence.as_ref().map_or(0.0, |evidence| evidence.weight);
            let told_by_values = weight >= 0.8 && is_unmistakable(&field.kind);
            let name = if told_by_values { name.score.max(0.4) } else { name.score };
            let demanded = if field.obligation == Obligation::Mandatory { 0.02 } else { 0.0 };
            if weight < 0.0 { name + weight } else { name + 0.35 * weight + if name > 0.0 { demanded } else { 0.0 } }
        };
        let scores = entity.fields.iter().zip(&names).zip(&evidence).map(score).collect();
        Self { profile, words, names, evidence, nothing, scores }
    }

    fn score(&self, field: usize) -> f64 {
        self.scores.get(field).copied().unwrap_or_default()
    }

    /// Its name is that of something that is never mapped.
    fn is_nothing(&self) -> bool {
        self.nothing.0.score >= 0.75
    }

    fn reason(&self, field: &EntityField) -> String {
        let name = self.names.get(field.index()).map(|name| name.reason.clone()).filter(|reason| !reason.is_empty());
        let values = self.evidence.get(field.index()).and_then(Option::as_ref).map(|evidence| evidence.reason.clone());
        [name, Some(values.unwrap_or_else(|| "no values to compare".to_owned()))]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; ")
    }

    fn why_nothing(&self) -> String {
        if self.is_nothing() { self.nothing.1.to_owned() } else { "no field of the entity is near enough".to_owned() }
    }
}

/// Checks that nothing else passes by chance.
fn is_unmistakable(kind: &FieldKind) -> bool {
    matches!(kind, FieldKind::Uscc | FieldKind::CitizenId | FieldKind::ProjectCode | FieldKind::Mobile | FieldKind::Url)
}

fn rounded(confidence: f64) -> f64 {
    (confidence * 100.0).round() / 100.0
}

/// A column of citizen numbers is also that of the document's number: where the key asks for it and no other column has it.
fn share_citizen_numbers(lines: &mut Vec<Line>, matched: &Matched<'_>) {
    let open =
        |field: &&EntityField| field.in_key && matches!(field.kind, FieldKind::Identifier { .. }) && field.grade == Grade::G3;
    let Some(number) = matched.entity.fields.iter().find(open) else { return };
    let citizen = matched.pairs().find(|(_, _, field)| matches!(field.kind, FieldKind::CitizenId) && field.name == "citizen_id");
    if lines.iter().any(|line| line.field == number.name) {
        return;
    }
    let line = citizen.and_then(|(_, _, field)| lines.iter().find(|line| line.field == field.name)).cloned();
    lines.extend(line.map(|line| Line {
        field: number.name.clone(),
        confidence: rounded(0.97 * line.confidence),
        reason: format!("the citizen number is the number of the document; {}", line.reason),
        ..line
    }));
}

/// Where the source has no number that the standard's key asks for, its own key tells its rows apart.
fn own_key(lines: &mut Vec<Line>, matched: &Matched<'_>) {
    let [key] = matched.table.key.as_slice() else { return };
    let taken = lines.iter().any(|line| line.column.as_ref() == Some(key));
    let free = |field: &&EntityField| {
        let number = matches!(field.kind, FieldKind::Identifier { .. }) && field.in_key && field.grade == Grade::G0;
        number && field.obligation == Obligation::Mandatory && !lines.iter().any(|line| line.field == field.name)
    };
    let Some(field) = matched.entity.fields.iter().find(free).filter(|_| !taken) else { return };
    let (column, field) = (Some(key.clone()), field.name.clone());
    let reason = "the table's own key, for want of the number that the standard asks for".to_owned();
    lines.push(Line { column, field, transform: Transform::default(), confidence: 0.5, reason });
}

/// One column that holds a body's name with its code in brackets is two fields: 测试公司（91…）.
fn split_glued(lines: &mut Vec<Line>, matched: &Matched<'_>) {
    for column in &matched.columns {
        let Some(inner) = column.words.titles.iter().find_map(|title| title.inner.as_deref()) else { continue };
        let Some(values) = Values::of(matched.table, column.profile) else { continue };
        let glued = values.shaped('（').max(values.shaped('('));
        if glued < 0.5 || values.share("uscc") >= 0.5 {
            continue;
        }
        let term = ColumnWords::of(inner, None);
        let by_name = |code: &&EntityField| {
            matches!(code.kind, FieldKind::Uscc) && code.title_zh.ends_with("统一社会信用代码") && !term.titles.is_empty()
        };
        let near = |field: &EntityField| column.names.get(field.index()).map_or(0.0, |name| name.score);
        let bodies = matched.entity.fields.iter().filter(|field| field.name.ends_with("_name"));
        let Some(body) = bodies.max_by(|left, right| near(left).total_cmp(&near(right))).filter(|body| near(body) >= 0.5) else {
            continue;
        };
        let code = body.name.replace("_name", "_uscc");
        let Some(code) = matched.entity.field(&code).filter(|code| by_name(code)) else { continue };
        let bracket = if values.shaped('（') >= values.shaped('(') { ('（', '）') } else { ('(', ')') };
        let share = format!("{:.0} % of values hold a code in brackets", glued * 100.0);
        for (field, transform) in
            [(body, Transform::before(&column.profile.name, bracket)), (code, Transform::within(&column.profile.name, bracket))]
        {
            lines.retain(|line| {
                line.field != field.name && line.column.as_deref() != Some(&column.profile.name) || line.transform.cel.is_some()
            });
            let (column, field) = (Some(column.profile.name.clone()), field.name.clone());
            lines.push(Line { column, field, transform, confidence: 0.8, reason: share.clone() });
        }
    }
}

/// What the table's name or its other columns tell of mandatory fields without a column.
fn constants(lines: &mut Vec<Line>, matched: &Matched<'_>) {
    let told = format!("{} {}", matched.table.table, matched.table.comment.as_deref().unwrap_or_default());
    for field in &matched.entity.fields {
        let mapped = lines.iter().any(|line| line.field == field.name);
        if mapped || field.obligation != Obligation::Mandatory || field.derived {
            continue;
        }
        let Some(list) = field.code_list() else { continue };
        let found = match citizens_document(lines, matched, field) {
            Some(code) => Some((code, 0.9, "the numbers are citizen numbers".to_owned())),
            None => vocabulary::told(list, &told).map(|(code, word)| (code, 0.75, format!("the table's name says {word}"))),
        };
        lines.extend(found.map(|(code, confidence, reason)| Line {
            column: None,
            field: field.name.clone(),
            transform: Transform { constant: Some(code), ..Transform::default() },
            confidence,
            reason,
        }));
    }
}

/// The code of the identity card, for the type of a document whose numbers are those of citizens.
fn citizens_document(lines: &[Line], matched: &Matched<'_>, field: &EntityField) -> Option<String> {
    let number = field.name.strip_suffix("_type").map(|stem| format!("{stem}_no"))?;
    let line = lines.iter().find(|line| line.field == number)?;
    let column = matched.table.column(line.column.as_deref()?)?;
    let citizens = lines.iter().any(|line| line.field == "citizen_id" && line.column.as_deref() == Some(&column.name));
    let share = Values::of(matched.table, column).map_or(0.0, |values| values.share("citizen_id"));
    let card = field.code_list().and_then(|list| vocabulary::meaning(list, "居民身份证"));
    card.filter(|_| share >= 0.8 || citizens)
}
