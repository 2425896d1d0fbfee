//! The items of a nested field, compiled: groups of columns, parallel texts, or the objects of a JSON array.

use guitong_schemas::avro::Value;
use guitong_schemas::avro::decode::Semantic;
use guitong_schemas::contract::mapping::{Items, Members};
use guitong_schemas::standard::{EntityField, Rule};
use serde_json::{Map, Value as Json};

use super::column::{Row, text_of};
use super::entry::{EntryPlan, Reading, Refusal};
use super::{Fault, Slot, Slots};
use crate::join::cell::Kept;
use crate::join::columns::ColumnSet;

/// Longest JSON text that is read, in bytes, and most items of one field.
const MAX_JSON: usize = 1 << 20;
const MAX_ITEMS: usize = 1_000;

/// How a nested field's items are made of one row.
#[derive(Debug)]
pub(crate) struct ItemsPlan {
    /// The members as fields, in the order in which the standard makes an item of them.
    pub(crate) members: Vec<EntityField>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Each reads the row itself.
    Groups(Vec<MembersPlan>),
    /// `slots` are the places in the row of what the members read.
    Parallel {
        separator: String,
        slots: Vec<usize>,
        item: ItemPlan,
    },
    Json {
        slot: usize,
        item: ItemPlan,
    },
    /// Each row of details; the members read its columns as those of a joined row.
    Details {
        list: usize,
        members: MembersPlan,
    },
}

/// Entries, each with the place of its member.
pub(crate) type MembersPlan = Vec<(usize, EntryPlan)>;

/// Members that read a row of their own.
#[derive(Debug)]
struct ItemPlan {
    columns: Vec<String>,
    slots: Vec<Slot>,
    members: MembersPlan,
}

/// Why a field has no items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemsFault {
    Column(Refusal),
    Rule(Rule),
}

impl ItemsPlan {
    pub(super) fn compile(field: &EntityField, items: &Items, slots: &mut Slots<'_>) -> Result<Self, Fault> {
        let members = field.members();
        let way = match items {
            Items::Groups(groups) => {
                let compile = |group| compile_members(&members, group, slots);
                Way::Groups(groups.iter().map(compile).collect::<Result<_, _>>()?)
            }
            Items::Parallel { separator, members: item } => {
                let item = ItemPlan::compile(&members, item)?;
                let slots = item.columns.iter().map(|column| slots.of(column)).collect();
                Way::Parallel { separator: separator.clone(), slots, item }
            }
            Items::Json { column, members: item } => {
                Way::Json { slot: slots.of(column), item: ItemPlan::compile(&members, item)? }
            }
            Items::Details { details, members: item } => {
                let (list, members) = slots.of_each(details, |slots| compile_members(&members, item, slots))?;
                Way::Details { list, members }
            }
        };
        Ok(Self { members, way })
    }

    /// Hands the row that each item is made of to `each`, with the entries of its members.
    pub(crate) fn each(&self, row: &Row<'_, '_>, mut each: impl FnMut(&MembersPlan, &Row<'_, '_>)) -> Result<(), ItemsFault> {
        match &self.way {
            Way::Groups(groups) => {
                groups.iter().for_each(|members| each(members, row));
                Ok(())
            }
            Way::Parallel { separator, slots, item } => {
                let texts = slots.iter().map(|slot| text(row, *slot)).collect::<Result<Vec<_>, _>>()?;
                let lists: Vec<Vec<&str>> = texts
                    .iter()
                    .map(|text| {
                        text.as_deref().map_or_else(Vec::new, |text| text.split(separator.as_str()).map(str::trim).collect())
                    })
                    .collect();
                let count = lists.iter().map(Vec::len).max().unwrap_or(0);
                if lists.iter().any(|list| !list.is_empty() && list.len() != count) {
                    return Err(ItemsFault::Rule(Rule::ListsDiffer));
                }
                if count > MAX_ITEMS {
                    return Err(ItemsFault::Rule(Rule::StepsForm));
                }
                for at in 0..count {
                    let values: Vec<Value<'_>> =
                        lists.iter().map(|list| list.get(at).map_or(Value::Null, |part| Value::Text(part))).collect();
                    item.run(&values, &mut each);
                }
                Ok(())
            }
            Way::Json { slot, item } => {
                let Some(text) = text(row, *slot)? else { return Ok(()) };
                let objects = objects(&text).ok_or(ItemsFault::Rule(Rule::StepsForm))?;
                for object in &objects {
                    let values = item.columns.iter().map(|name| member(object, name)).collect::<Option<Vec<_>>>();
                    item.run(&values.ok_or(ItemsFault::Rule(Rule::StepsForm))?, &mut each);
                }
                Ok(())
            }
            Way::Details { list, members } => {
                let rows = match row.lists.get(*list) {
                    Some(Ok(rows)) => rows.as_slice(),
                    Some(Err(refusal)) => return Err(ItemsFault::Column(*refusal)),
                    None => &[],
                };
                for row in rows {
                    let cells: Vec<_> = row.cells.iter().map(Kept::cell).collect();
                    each(members, &Row::joined(&cells));
                }
                Ok(())
            }
        }
    }
}

impl ItemPlan {
    fn compile(fields: &[EntityField], members: &Members) -> Result<Self, Fault> {
        let mut columns = ColumnSet::default();
        let members = compile_members(fields, members, &mut Slots::new(&mut columns))?;
        let columns = columns.into_own();
        let slots = (0..columns.len()).map(|index| Slot { index, semantic: Semantic::Plain }).collect();
        Ok(Self { columns, slots, members })
    }

    fn run(&self, values: &[Value<'_>], each: &mut impl FnMut(&MembersPlan, &Row<'_, '_>)) {
        let row = Row { columns: &self.columns, ..Row::plain(&self.slots, values, &[], &[]) };
        each(&self.members, &row);
    }
}

fn compile_members(fields: &[EntityField], members: &Members, slots: &mut Slots<'_>) -> Result<MembersPlan, Fault> {
    let mut plans = Vec::with_capacity(members.len());
    for (name, mapping) in members {
        let place = fields.iter().position(|field| field.name == *name).ok_or_else(|| Fault::NoMember(name.clone()))?;
        let Some(field) = fields.get(place) else { continue };
        plans.push((place, EntryPlan::compile(field, mapping, slots)?));
    }
    Ok(plans)
}

/// The text of a column; `None` where it is empty.
fn text(row: &Row<'_, '_>, slot: usize) -> Result<Option<String>, ItemsFault> {
    match Reading::of(row.cell(slot)) {
        Reading::Refused(refusal) => Err(ItemsFault::Column(refusal)),
        reading if reading.is_empty() => Ok(None),
        Reading::Value(input) => Ok(Some(text_of(input))),
        Reading::Made(text) => Ok(Some(text)),
        Reading::Empty => Ok(None),
    }
}

fn objects(text: &str) -> Option<Vec<Map<String, Json>>> {
    let objects: Vec<Map<String, Json>> = (text.len() <= MAX_JSON).then(|| serde_json::from_str(text).ok())??;
    (objects.len() <= MAX_ITEMS).then_some(objects)
}

/// A member of an object as a column's value; `None` where it holds a list or an object.
fn member<'o>(object: &'o Map<String, Json>, name: &str) -> Option<Value<'o>> {
    Some(match object.get(name) {
        None | Some(Json::Null) => Value::Null,
        Some(Json::String(text)) => Value::Text(text),
        Some(Json::Bool(truth)) => Value::Bool(*truth),
        Some(Json::Number(number)) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Double(number.as_f64()?),
        },
        Some(Json::Array(_) | Json::Object(_)) => return None,
    })
}
