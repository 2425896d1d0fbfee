//! What a subscription grants of an entity, compiled once: columns, masks per grade, and how rows are keyed.

use std::fmt::Write as _;

use guitong_schemas::contract::Subscription;
use guitong_schemas::contract::subscription::Mask;
use guitong_schemas::standard::{Entity, EntityField, FieldKind, Grade, KeySource};

use super::EntitlementError;

/// One column of what a subscriber receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The entity's field, or the part of its key.
    pub name: String,
    /// Chinese title.
    pub title: String,
    pub kind: ColumnKind,
    /// What decides how values are masked, in words; a change of it changes what the column holds.
    pub masks: String,
    pub(super) source: Source,
}

/// What a column's values are. A field that a mask may change is text whatever it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    Text,
    Int,
    Date,
    /// An instant, microseconds since 1970-01-01T00:00Z.
    Time,
    Decimal {
        precision: u32,
        scale: u32,
    },
    TextList,
    Steps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Index in the entity's fields.
    Field(usize),
    /// Index in the entity's key, for a part that is no field.
    KeyPart(usize),
}

/// How a subscriber's rows are keyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyForm {
    /// By the entity's own key: for each of its parts the index of its column.
    Clear(Vec<usize>),
    /// By `guitong_key`, 16 bytes: a part of the key is masked or not granted, or is made of such a field.
    Hashed,
}

/// The mask of one field at each grade, in the order of [`Grade::ALL`].
pub(super) type MasksByGrade = [Mask; Grade::ALL.len()];

/// The mask of `field` at each grade: the declared one whatever the grade, else the default of the grade.
pub(super) fn masks_of(field: &EntityField, declared: Option<Mask>) -> MasksByGrade {
    Grade::ALL.map(|grade| declared.unwrap_or_else(|| field.default_mask(grade)))
}

/// The grades that a field's values can have: its own, that of a record about a person, and that of a child's record or of a citizen
/// number among others.
pub(super) fn reachable(entity: &Entity, field: &EntityField) -> impl Iterator<Item = Grade> + use<> {
    let highest = (entity.birth.is_some() || field.may_hold_citizen_number()).then_some(Grade::G3);
    [Some(field.grade), field.grade_person, highest].into_iter().flatten()
}

/// Every mask that a value of the field can get.
pub(super) fn possible(entity: &Entity, field: &EntityField, masks: &MasksByGrade) -> impl Iterator<Item = Mask> + use<> {
    let masks = *masks;
    reachable(entity, field).filter_map(move |grade| masks.get(grade as usize).copied())
}

/// What decides how the field's values are masked: the mask at each grade, how they are graded, and the division tables where those are
/// asked, for the names in an address or for what is a citizen number.
fn described(entity: &Entity, field: &EntityField, masks: &MasksByGrade) -> String {
    let is_graded = masks.iter().any(|mask| Some(mask) != masks.first());
    let mut text = format!("{masks:?}");
    if is_graded {
        let person = field.grade_person.map(|grade| (grade.as_str(), entity.person_text().unwrap_or_default()));
        let _ = write!(text, " {} {person:?}", field.grade.as_str());
    }
    let names = possible(entity, field, masks).any(|mask| mask == Mask::Address);
    if names || is_graded && field.may_hold_citizen_number() {
        let _ = write!(text, " {}", hex::encode(entity.divisions_digest()));
    }
    text
}

pub(super) struct Grant {
    pub(super) columns: Vec<Column>,
    /// By field of the entity; a field that is not granted has no masks.
    pub(super) masks: Vec<Option<MasksByGrade>>,
    pub(super) key: KeyForm,
}

impl Grant {
    pub(super) fn compile(subscription: &Subscription, entity: &Entity) -> Result<Self, EntitlementError> {
        let masks = granted_masks(subscription, entity)?;
        let mut columns = Vec::new();
        for (at, field) in entity.fields.iter().enumerate() {
            if let Some(masks) = masks.get(at).and_then(Option::as_ref) {
                columns.push(Column {
                    name: field.name.clone(),
                    title: field.title_zh.clone(),
                    kind: column_kind(entity, field, masks),
                    masks: described(entity, field, masks),
                    source: Source::Field(at),
                });
            }
        }
        let key = key_form(entity, &masks, &mut columns);
        Ok(Self { columns, masks, key })
    }

    pub(super) fn needs_secret(&self) -> bool {
        let hashes = |masks: &MasksByGrade| masks.contains(&Mask::Hash);
        self.key == KeyForm::Hashed || self.masks.iter().flatten().any(hashes)
    }
}

fn granted_masks(subscription: &Subscription, entity: &Entity) -> Result<Vec<Option<MasksByGrade>>, EntitlementError> {
    let unknown = |field: &String| EntitlementError::UnknownField {
        subscription: subscription.name.clone(),
        field: field.clone(),
        entity: entity.name.clone(),
    };
    let mut masks = vec![None; entity.fields.len()];
    for name in &subscription.fields {
        let (at, field) = entity.fields.iter().enumerate().find(|(_, field)| field.name == *name).ok_or_else(|| unknown(name))?;
        if let Some(slot) = masks.get_mut(at) {
            *slot = Some(masks_of(field, subscription.masks.get(name).copied()));
        }
    }
    match subscription.masks.keys().find(|name| !subscription.fields.contains(name)) {
        Some(name) => Err(EntitlementError::MaskOfUngranted { subscription: subscription.name.clone(), field: name.clone() }),
        None => Ok(masks),
    }
}

fn column_kind(entity: &Entity, field: &EntityField, masks: &MasksByGrade) -> ColumnKind {
    let changed = possible(entity, field, masks).any(|mask| !matches!(mask, Mask::None | Mask::Drop));
    match field.kind {
        FieldKind::Codes(_) => ColumnKind::TextList,
        FieldKind::Steps => ColumnKind::Steps,
        _ if changed => ColumnKind::Text,
        FieldKind::Date => ColumnKind::Date,
        FieldKind::Time => ColumnKind::Time,
        FieldKind::Decimal { precision, scale } => ColumnKind::Decimal { precision, scale },
        FieldKind::Int => ColumnKind::Int,
        _ => ColumnKind::Text,
    }
}

/// Clear where everything that the key is made of is granted and can never be masked; adds the columns of parts that are no
/// field of the entity.
fn key_form(entity: &Entity, masks: &[Option<MasksByGrade>], columns: &mut Vec<Column>) -> KeyForm {
    let clear = |at: usize| match (entity.fields.get(at), masks.get(at).and_then(Option::as_ref)) {
        (Some(field), Some(masks)) => possible(entity, field, masks).all(|mask| mask == Mask::None),
        _ => false,
    };
    let is_clear = |source: &KeySource| match source {
        KeySource::Fields(from) => from.iter().all(|&at| clear(at)),
        KeySource::System => true,
    };
    if !entity.key.iter().all(|part| is_clear(&part.source)) {
        return KeyForm::Hashed;
    }
    let mut places = Vec::with_capacity(entity.key.len());
    for (at, part) in entity.key.iter().enumerate() {
        let place = match columns.iter().position(|column| column.name == part.name) {
            Some(place) => place,
            None => {
                columns.push(Column {
                    name: part.name.clone(),
                    title: part.name.clone(),
                    kind: ColumnKind::Text,
                    masks: String::new(),
                    source: Source::KeyPart(at),
                });
                columns.len() - 1
            }
        };
        places.push(place);
    }
    KeyForm::Clear(places)
}
