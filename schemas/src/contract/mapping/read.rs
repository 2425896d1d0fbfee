//! Reading the entries of `[map]`, or of the members of a nested field.

use std::cell::RefCell;

use super::super::join::{ListUse, LookupUse};
use super::super::load::World;
use super::super::reading::document::{At, Found};
use super::super::reading::kinds::Kind;
use super::super::reading::section::Section;
use super::super::reading::{expression, scalar};
use super::super::resource::Place;
use super::super::seen::{self, Extent, Seen};
use super::{Case, FieldMapping, Items, Members, ValueSource};
use crate::standard::{EntityField, FieldKind};

/// Most cases of a field, and most groups of columns of a nested one.
const MAX_BRANCHES: usize = 50;

/// Reads one resource's entries, and gathers the columns that they name.
pub(in crate::contract) struct Reader<'w> {
    pub(super) world: &'w World<'w>,
    /// What was seen of the columns; `None` where what is read are no columns.
    pub(super) seen: Option<&'w Seen>,
    named: RefCell<Named>,
}

/// What entries name, each with its place.
#[derive(Default)]
pub(in crate::contract) struct Named {
    pub(in crate::contract) columns: Vec<(String, At)>,
    pub(in crate::contract) lookups: Vec<LookupUse>,
    pub(in crate::contract) lists: Vec<ListUse>,
}

impl<'w> Reader<'w> {
    pub(in crate::contract) fn new(world: &'w World<'w>, seen: Option<&'w Seen>) -> Self {
        Self { world, seen, named: RefCell::default() }
    }

    pub(in crate::contract) fn into_named(self) -> Named {
        self.named.into_inner()
    }

    /// Reads `field = "column"` or `field = { … }`. `field` is `None` where the entity is not known.
    pub(in crate::contract) fn field(
        &self,
        map: &Section<'_>,
        key: &Found<String>,
        field: Option<&EntityField>,
    ) -> Option<FieldMapping> {
        let at = map.place(&key.at);
        if !map.is_table(&key.value) {
            return self.plain(map, key, field, at);
        }
        let section = map.own_section(&key.value)?;
        if section.has("cases") {
            return self.cases(&section, field, at);
        }
        if section.has("item") || section.has("items") {
            return self.items(&section, field, at);
        }
        self.entry(section, field, at, Extent::Every)
    }

    /// `field = "column"`.
    fn plain(&self, map: &Section<'_>, key: &Found<String>, field: Option<&EntityField>, at: Place) -> Option<FieldMapping> {
        let found = map.words(&key.value)?;
        let source = found.at.clone();
        let mapping = FieldMapping::plain(ValueSource::Column(self.column(found)), at);
        if let (Some(seen), Some(field)) = (self.seen, field) {
            let (codes, extent) = (source.clone(), Extent::Every);
            seen.check(&seen::Entry { section: map, field, mapping: &mapping, source, codes, extent }, self.world);
        }
        Some(mapping)
    }

    pub(super) fn column(&self, found: Found<String>) -> String {
        self.named.borrow_mut().columns.push((found.value.clone(), found.at));
        found.value
    }

    pub(super) fn look_up(&self, lookup: LookupUse) {
        self.named.borrow_mut().lookups.push(lookup);
    }

    /// What `read` names belongs to the rows of details, or of the group where those are not named.
    pub(super) fn of_rows<T>(&self, details: Option<Found<String>>, at: At, read: impl FnOnce(&Reader<'_>) -> T) -> T {
        let seen = self.seen.map(|seen| seen.of_rows(details.as_ref().map(|found| found.value.as_str())));
        let inner = Reader::new(self.world, seen.as_ref());
        let result = read(&inner);
        let Named { columns, lookups, .. } = inner.into_named();
        let mut named = self.named.borrow_mut();
        named.lookups.extend(lookups);
        named.lists.push(ListUse { details, columns, at });
        result
    }

    /// A CEL expression over the row that is true or false.
    pub(in crate::contract) fn condition(&self, section: &Section<'_>, key: &str) -> Option<String> {
        let (found, kind) = self.expression(section, key)?;
        if let Some(kind) = kind.filter(|kind| *kind != Kind::Truth) {
            let message = format!("`{key}` gives {kind}, and must be true or false");
            section.problem(&found.at, "wrong-type", message, Some("as \"row.zt == '1'\"".to_owned()));
            return None;
        }
        Some(found.value)
    }

    /// A CEL expression over the row, and what it gives where its text alone tells.
    pub(super) fn expression(&self, section: &Section<'_>, key: &str) -> Option<(Found<String>, Option<Kind>)> {
        let found = section.words(key)?;
        match expression::check(&found.value, &[("row", "")], &expression::STRINGS) {
            Ok(uses) => {
                uses.columns.into_iter().for_each(|value| drop(self.column(Found { value, at: found.at.clone() })));
                Some((found, uses.kind))
            }
            Err(faults) => {
                section.expression_faults(&found, faults);
                None
            }
        }
    }

    fn cases(&self, section: &Section<'_>, field: Option<&EntityField>, at: Place) -> Option<FieldMapping> {
        stands_alone(section, "cases", &["cases"], "put it into the cases that need it");
        let sections = bounded(section, "cases")?;
        let last = sections.len();
        let mut cases = Vec::with_capacity(last);
        for (number, case) in sections.into_iter().enumerate() {
            let conditional = case.has("when");
            if !conditional && number + 1 < last {
                let help = "only the last case may be without `when`".to_owned();
                case.problem(case.at(), "conflict", "the cases after this one are never reached", Some(help));
            }
            let when = self.condition(&case, "when");
            let mapping = self.entry(case, field, at, if last == 1 { Extent::Every } else { Extent::Some });
            cases.extend(mapping.filter(|_| when.is_some() == conditional).map(|mapping| Case { when, mapping }));
        }
        (cases.len() == last).then(|| FieldMapping::plain(ValueSource::Cases(cases), at))
    }

    fn items(&self, section: &Section<'_>, field: Option<&EntityField>, at: Place) -> Option<FieldMapping> {
        if let Some(field) = field
            && !matches!(field.kind, FieldKind::Steps)
        {
            let key = if section.has("items") { "items" } else { "item" };
            let message = format!("`{key}` makes nested records, and `{}` ({}) holds none", field.name, field.title_zh);
            section.problem(&section.key_at(key), "bad-option", message, None);
            return None;
        }
        let members = field.map(EntityField::members);
        let members = members.as_deref();
        let items = if section.has("items") {
            stands_alone(section, "items", &["items"], "the members of each item say where they come from");
            let groups = bounded(section, "items")?;
            let read = groups.iter().map(|group| self.members(group, members, Extent::Some)).collect::<Vec<_>>();
            Items::Groups(read.into_iter().collect::<Option<_>>()?)
        } else {
            stands_alone(section, "item", &["item", "from", "split", "details"], "it is said by the members of `item`");
            let item = section.own_section("item")?;
            match (section.has("from"), section.has("split")) {
                (false, false) if section.has("details") => {
                    let details = section.words("details")?;
                    let (name, at) = (details.value.clone(), details.at.clone());
                    let members = self.of_rows(Some(details), at, |reader| reader.members(&item, members, Extent::Some))?;
                    Items::Details { details: name, members }
                }
                (true, false) => {
                    // What the members read are names in the objects, not columns.
                    let members = Reader::new(self.world, None).members(&item, members, Extent::Parts);
                    let column = self.column(section.words("from")?);
                    Items::Json { column, members: members? }
                }
                (false, true) => {
                    let separator = section.text("split").filter(|split| not_empty(section, "split", split));
                    Items::Parallel { members: self.members(&item, members, Extent::Parts)?, separator: separator?.value }
                }
                _ => {
                    let help = "one of `details`, rows of another table or of the group; `from`, a column with a JSON array; and `split`, where each member's column is a list".to_owned();
                    let message = "`item` does not say where the items come from";
                    section.problem(&section.key_at("item"), "missing-key", message, Some(help));
                    return None;
                }
            }
        };
        if let Items::Json { members, .. } | Items::Parallel { members, .. } | Items::Details { members, .. } = &items
            && members.values().any(|member| matches!(member.value, ValueSource::Lookup { .. }) || member.row.is_some())
        {
            let help = "what an item's members read are names or parts of it, or columns of its own row".to_owned();
            let message = "the members of an `item` cannot look anything up or be made of other rows";
            section.problem(section.at(), "bad-option", message, Some(help));
            return None;
        }
        Some(FieldMapping::plain(ValueSource::Items(items), at))
    }

    /// Mappings by member of the nested record.
    fn members(&self, section: &Section<'_>, known: Option<&[EntityField]>, extent: Extent) -> Option<Members> {
        let mut members = Members::new();
        let keys = section.keys();
        let count = keys.len();
        for key in keys {
            let member = known.map(|known| known.iter().find(|member| member.name == key.value));
            if let (Some(None), Some(known)) = (member, known) {
                let message = format!("an item has no member `{}`", scalar::short(&key.value));
                let help = scalar::suggestion(&key.value, known.iter().map(|member| member.name.as_str()).collect::<Vec<_>>());
                section.problem(&key.at, "unknown-field", message, help);
                continue;
            }
            if let Some(mapping) = self.member(section, &key, member.flatten(), extent) {
                members.insert(key.value, mapping);
            }
        }
        if count == 0 {
            section.problem(section.at(), "empty", "the item has no members", None);
        }
        (count > 0 && members.len() == count).then_some(members)
    }

    fn member(
        &self,
        section: &Section<'_>,
        key: &Found<String>,
        member: Option<&EntityField>,
        extent: Extent,
    ) -> Option<FieldMapping> {
        let at = section.place(&key.at);
        if !section.is_table(&key.value) {
            return self.plain(section, key, member.filter(|_| extent != Extent::Parts), at);
        }
        let mapping = self.entry(section.own_section(&key.value)?, member, at, extent)?;
        if mapping.split.is_some() && mapping.part.is_none() {
            let help = "take one `part`, or let `split` stand beside `item`".to_owned();
            let message = format!("`{}` is one value of its item and cannot be split", key.value);
            section.problem(&key.at, "conflict", message, Some(help));
            return None;
        }
        Some(mapping)
    }
}

/// Reports every key beside those that `kind` goes with.
fn stands_alone(section: &Section<'_>, kind: &str, with: &[&str], help: &str) {
    for key in section.keys().iter().filter(|key| !with.contains(&key.value.as_str())) {
        let message = format!("`{}` cannot stand beside `{kind}`", scalar::short(&key.value));
        section.problem(&key.at, "conflict", message, Some(help.to_owned()));
    }
}

fn bounded<'s>(section: &Section<'s>, key: &str) -> Option<Vec<Section<'s>>> {
    let sections = section.sections(key)?;
    if (1..=MAX_BRANCHES).contains(&sections.len()) {
        return Some(sections);
    }
    let message = format!("`{key}` holds {} tables; it must be 1 to {MAX_BRANCHES}", sections.len());
    section.problem(&section.key_at(key), "bad-value", message, None);
    None
}

/// Reports an empty text.
pub(super) fn not_empty(section: &Section<'_>, key: &str, found: &Found<String>) -> bool {
    if found.value.is_empty() {
        section.problem(&found.at, "empty", format_args!("`{key}` is empty"), Some("as \";\"".to_owned()));
    }
    !found.value.is_empty()
}
