//! Where ours is right instead: each rule says what ours must be where the peer is known to be wrong, and counts how often it
//! applied. What is left of the peer's dump after the rules is what ours must equal.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::dump::{Dump, Message, Topic};
use super::run::{Facts, Run};

/// What the rules say, in the order in which they apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    Partitions,
    Generated,
    KeylessTombstone,
    IdentityKey,
    NameColumn,
    SnapshotDisagrees,
    EnumItems,
    AddedTables,
    FirstLoadOrder,
    FirstLoadTransaction,
    TransactionId,
    TransactionTables,
    GeometricText,
    NullDefault,
}

impl Rule {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Partitions => "a partitioned table's rows are in its root's topic, once",
            Self::Generated => "a stored generated column is absent from snapshot and stream",
            Self::KeylessTombstone => "no tombstone without a key",
            Self::IdentityKey => "an identity index beside a primary key is the message key",
            Self::NameColumn => "`name` columns hold their value in the stream too",
            Self::SnapshotDisagrees => "the snapshot has the value that the stream has",
            Self::EnumItems => "items of an enum array are nullable",
            Self::AddedTables => "a table that is added or renamed is read by its new name",
            Self::FirstLoadOrder => "the first load takes tables and rows in its own order",
            Self::FirstLoadTransaction => "rows of the first load are of no transaction",
            Self::TransactionId => "all events of a transaction have one transaction id",
            Self::TransactionTables => {
                "the end of a transaction lists its tables in the order of their first events, messages by that word"
            }
            Self::GeometricText => "geometric types are the server's text",
            Self::NullDefault => "NULL in a column with a default is null",
        }
    }
}

/// How often each rule applied.
#[derive(Debug, Clone, Default)]
pub struct Applied(pub BTreeMap<Rule, usize>);

impl Applied {
    fn count(&mut self, rule: Rule, times: usize) {
        if times > 0 {
            *self.0.entry(rule).or_default() += times;
        }
    }
}

type Topics = BTreeMap<String, Topic>;

/// What ours must be, and ours without what is not compared.
pub(super) fn apply(dump: &Dump, run: &Run) -> (Topics, Topics, Applied) {
    let mut applied = Applied::default();
    let (mut theirs, mut ours) = (dump.topics.clone(), run.topics.clone());
    partitions(&mut theirs, &run.facts, &mut applied);
    let facts = &run.facts;
    for (name, topic) in &mut theirs {
        generated(topic, facts.columns(name, &facts.generated), &mut applied);
        keyless_tombstones(topic, &mut applied);
        identity_key(topic, facts.columns(name, &facts.identities), &mut applied);
        geometric_text(topic, facts.columns(name, &facts.geometric), &mut applied);
        pairs(topic, facts.columns(name, &facts.names), &mut applied);
        for schema in topic.key_schemas.iter_mut().chain(&mut topic.value_schemas) {
            applied.count(Rule::EnumItems, enum_items(schema));
        }
        first_load_transaction(topic, &mut applied);
    }
    added_tables(&theirs, &mut ours, &mut applied);
    first_load_order(&mut theirs, &mut ours, &mut applied);
    transaction_ids(&mut theirs, &mut ours, &mut applied);
    transaction_tables(&mut theirs, &mut ours, &mut applied);
    for (name, topic) in &mut theirs {
        if let Some(ours) = ours.get(name) {
            null_defaults(topic, ours, facts.columns(name, &facts.defaulted), &mut applied);
        }
    }
    for message in theirs.values_mut().chain(ours.values_mut()).flat_map(|topic| &mut topic.messages) {
        forget_volatile(message, &dump.volatile_fields);
    }
    (theirs, ours, applied)
}

fn images(message: &mut Message) -> impl Iterator<Item = &mut Map<String, Json>> {
    let value = message.value.as_object_mut();
    value.into_iter().flat_map(|value| {
        value
            .iter_mut()
            .filter(|(name, _)| matches!(name.as_str(), "before" | "after"))
            .filter_map(|(_, row)| row.as_object_mut())
    })
}

/// Fields of the row inside an envelope's schema, or of the row alone.
fn row_fields(schema: &Json) -> Option<&Vec<Json>> {
    let fields = schema.get("fields")?.as_array()?;
    let Some(before) = fields.iter().find(|field| field.get("name") == Some(&json!("before"))) else { return Some(fields) };
    before.get("type")?.get(1)?.get("fields")?.as_array()
}

fn partitions(topics: &mut Topics, facts: &Facts, applied: &mut Applied) {
    let mut leaves: Vec<(String, String)> = Vec::new();
    for name in topics.keys() {
        if let Some(root) = facts.table(name).and_then(|table| facts.partitions.get(table)) {
            leaves.push((name.clone(), root.clone()));
        }
    }
    for (leaf, root) in leaves {
        let Some(topic) = topics.remove(&leaf) else { continue };
        let whole = topics.iter_mut().find(|(name, _)| facts.table(name) == Some(&root));
        let Some((_, whole)) = whole else { continue };
        let table = whole.messages.first().and_then(|message| message.source("table")).cloned().unwrap_or_default();
        applied.count(Rule::Partitions, topic.messages.len());
        whole.messages.extend(topic.messages.into_iter().filter(|message| !message.is_snapshot()).map(|mut message| {
            if let Some(name) = message.source_mut("table") {
                *name = table.clone();
            }
            message
        }));
        // A tombstone follows its delete.
        let mut last = 0;
        let mut placed: Vec<(u64, Message)> = Vec::new();
        for message in std::mem::take(&mut whole.messages) {
            last = message.source("lsn").and_then(Json::as_u64).unwrap_or(last);
            placed.push((last, message));
        }
        placed.sort_by_key(|(lsn, _)| *lsn);
        whole.messages = placed.into_iter().map(|(_, message)| message).collect();
        number_in_table(&mut whole.messages);
    }
    for message in topics.values_mut().flat_map(|topic| &mut topic.messages) {
        let Some(tables) = message.value.get_mut("data_collections").and_then(Json::as_array_mut) else { continue };
        let mut whole: Vec<Json> = Vec::new();
        for mut table in std::mem::take(tables) {
            let root = table.get("data_collection").and_then(Json::as_str).and_then(|name| facts.partitions.get(name));
            if let (Some(root), Some(name)) = (root, table.get_mut("data_collection")) {
                *name = json!(root);
            }
            let events = |table: &Json| table.get("event_count").and_then(Json::as_u64).unwrap_or(0);
            match whole.iter_mut().find(|other| other.get("data_collection") == table.get("data_collection")) {
                Some(other) => {
                    let sum = events(other) + events(&table);
                    if let Some(count) = other.get_mut("event_count") {
                        *count = json!(sum);
                    }
                }
                None => whole.push(table),
            }
        }
        *tables = whole;
    }
}

/// Numbers the events of a table anew within their transactions.
fn number_in_table(messages: &mut [Message]) {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for block in messages.iter_mut().filter_map(|message| message.value.get_mut("transaction")) {
        let Some(id) = block.get("id").and_then(Json::as_str) else { continue };
        let count = counts.entry(transaction_of(id).to_owned()).or_default();
        *count += 1;
        if let Some(order) = block.get_mut("data_collection_order") {
            *order = json!(count);
        }
    }
}

/// The peer's ids have the LSN of the event behind the transaction's own id.
fn transaction_of(id: &str) -> &str {
    id.split(':').next().unwrap_or(id)
}

fn generated(topic: &mut Topic, columns: Option<&Vec<String>>, applied: &mut Applied) {
    let Some(columns) = columns else { return };
    let holds = |schema: &Json| {
        row_fields(schema).is_some_and(|fields| {
            fields.iter().any(|field| columns.iter().any(|column| field.get("name") == Some(&json!(column))))
        })
    };
    let kept: Vec<usize> = (0..topic.value_schemas.len()).filter(|&at| !topic.value_schemas.get(at).is_some_and(holds)).collect();
    for message in &mut topic.messages {
        let mut removed = 0;
        for row in images(message) {
            removed += columns.iter().filter(|column| row.shift_remove(column.as_str()).is_some()).count();
        }
        applied.count(Rule::Generated, removed);
        // A schema that is gone gives way to the first that stays.
        message.value_schema = message.value_schema.map(|schema| kept.iter().position(|&at| at == schema).unwrap_or(0));
    }
    topic.value_schemas = kept.iter().filter_map(|&at| topic.value_schemas.get(at).cloned()).collect();
}

fn keyless_tombstones(topic: &mut Topic, applied: &mut Applied) {
    let before = topic.messages.len();
    topic.messages.retain(|message| !(message.key.is_null() && message.value.is_null()));
    applied.count(Rule::KeylessTombstone, before - topic.messages.len());
}

fn identity_key(topic: &mut Topic, columns: Option<&Vec<String>>, applied: &mut Applied) {
    let Some(columns) = columns else { return };
    let fields = topic.value_schemas.first().and_then(row_fields).map(Vec::as_slice).unwrap_or_default();
    let field = |column: &String| fields.iter().find(|field| field.get("name") == Some(&json!(column))).cloned();
    let fields: Vec<Json> = columns.iter().filter_map(field).collect();
    for schema in &mut topic.key_schemas {
        if let Some(attributes) = schema.as_object_mut() {
            attributes.insert("fields".to_owned(), Json::Array(fields.clone()));
        }
    }
    let keys: Vec<Json> = topic
        .messages
        .iter()
        .scan(Json::Null, |last, message| {
            let row = ["after", "before"].into_iter().find_map(|name| message.value.get(name)?.as_object());
            if let Some(row) = row {
                let of = |column: &String| (column.clone(), row.get(column).cloned().unwrap_or_default());
                *last = Json::Object(columns.iter().map(of).collect());
            }
            Some(last.clone())
        })
        .collect();
    let creates: Vec<usize> =
        topic.messages.iter().enumerate().filter(|(_, message)| message.operation() == Some("c")).map(|(at, _)| at).collect();
    for (at, message) in topic.messages.iter_mut().enumerate() {
        for (name, value) in &mut message.headers {
            // The other half of the key change: the create that follows, or the delete and its tombstone before.
            let other = match name.as_str() {
                "__debezium.newkey" => creates.iter().find(|create| **create > at).copied(),
                "__debezium.oldkey" => at.checked_sub(1),
                _ => continue,
            };
            *value = other.and_then(|other| keys.get(other)).map(Json::to_string).unwrap_or_default();
        }
        message.key = keys.get(at).cloned().unwrap_or_default();
        applied.count(Rule::IdentityKey, 1);
    }
}

/// Every row of a snapshot comes once more in the stream, under a key that is greater by this.
const PAIRED: i64 = 100;

/// Rows that are in the snapshot and in the stream have the same values: the stream's, but for `name` columns.
fn pairs(topic: &mut Topic, names: Option<&Vec<String>>, applied: &mut Applied) {
    let id = |message: &Message| match message.key.as_object() {
        Some(key) if key.len() == 1 => key.values().next().and_then(Json::as_i64),
        _ => None,
    };
    let streamed: Vec<(i64, usize)> = topic
        .messages
        .iter()
        .enumerate()
        .filter(|(_, message)| message.operation() == Some("c"))
        .filter_map(|(at, message)| Some((id(message)?, at)))
        .collect();
    for at in 0..topic.messages.len() {
        let Some(message) = topic.messages.get(at).filter(|message| message.is_snapshot()) else { continue };
        let Some((_, other)) = id(message).and_then(|id| streamed.iter().find(|(other, _)| *other == id + PAIRED)) else {
            continue;
        };
        let key: Vec<String> = message.key.as_object().into_iter().flat_map(Map::keys).cloned().collect();
        let row = |at: usize| topic.messages.get(at).and_then(|message| message.value.get("after")).and_then(Json::as_object);
        let (Some(snapshot), Some(stream)) = (row(at), row(*other)) else { continue };
        let differing = snapshot.iter().filter(|(name, value)| !key.contains(name) && stream.get(*name) != Some(value));
        let moves: Vec<(String, Json, bool)> = differing
            .filter_map(|(name, value)| {
                let is_name = names.is_some_and(|names| names.contains(name));
                Some((name.clone(), if is_name { value.clone() } else { stream.get(name)?.clone() }, is_name))
            })
            .collect();
        for (name, value, is_name) in moves {
            let to = if is_name { *other } else { at };
            if let Some(row) = topic.messages.get_mut(to).and_then(|message| message.value.get_mut("after")?.as_object_mut()) {
                row.insert(name, value);
            }
            applied.count(if is_name { Rule::NameColumn } else { Rule::SnapshotDisagrees }, 1);
        }
    }
}

/// How many arrays of enums got nullable items.
fn enum_items(schema: &mut Json) -> usize {
    match schema {
        Json::Object(attributes) => {
            let mut count = 0;
            if let Some(items) = attributes.get_mut("items")
                && items.get("connect.name") == Some(&json!("io.debezium.data.Enum"))
            {
                *items = json!(["null", items]);
                count += 1;
            }
            count + attributes.values_mut().map(enum_items).sum::<usize>()
        }
        Json::Array(items) => items.iter_mut().map(enum_items).sum(),
        _ => 0,
    }
}

fn first_load_transaction(topic: &mut Topic, applied: &mut Applied) {
    for message in topic.messages.iter_mut().filter(|message| message.is_snapshot()) {
        if let Some(id) = message.source_mut("txId").filter(|id| !id.is_null()) {
            *id = Json::Null;
            applied.count(Rule::FirstLoadTransaction, 1);
        }
    }
}

/// Which table is first and which row of a table is decided by neither side's promise: rows are put in one order, and the marks `first`
/// and `last` of all tables become those that the row has in its table. Ours must still have no more than one of each.
fn first_load_order(theirs: &mut Topics, ours: &mut Topics, applied: &mut Applied) {
    let once = ["first", "last"].iter().all(|word| {
        let all = ours.values().flat_map(|topic| &topic.messages);
        all.filter(|message| message.source("snapshot") == Some(&json!(word))).count() <= 1
    });
    for (name, topic) in theirs.iter_mut() {
        let Some(ours) = ours.get_mut(name) else { continue };
        let mut changed = sort_snapshot(topic) + sort_snapshot(ours) + marks_within_table(topic);
        if once {
            changed += marks_within_table(ours);
        }
        applied.count(Rule::FirstLoadOrder, changed);
    }
}

/// The peer takes the changes of a table that comes while it streams, and never the rows that were there before.
fn added_tables(theirs: &Topics, ours: &mut Topics, applied: &mut Applied) {
    for (name, topic) in ours {
        let is_read = theirs.get(name).is_some_and(|theirs| theirs.messages.iter().any(Message::is_snapshot));
        if !is_read && topic.messages.first().is_some_and(|first| !first.is_snapshot()) {
            let before = topic.messages.len();
            topic.messages.retain(|message| !message.is_snapshot());
            applied.count(Rule::AddedTables, before - topic.messages.len());
        }
    }
}

/// Puts the rows of a snapshot in the order of their text, each place keeping its mark. Whether that changed anything.
fn sort_snapshot(topic: &mut Topic) -> usize {
    let count = topic.messages.iter().take_while(|message| message.is_snapshot()).count();
    let Some(rows) = topic.messages.get_mut(..count) else { return 0 };
    let marks: Vec<Option<Json>> = rows.iter().map(|message| message.source("snapshot").cloned()).collect();
    let text = |message: &Message| message.value.get("after").map(Json::to_string);
    let was_sorted = rows.is_sorted_by_key(text);
    rows.sort_by_key(text);
    for (message, mark) in rows.iter_mut().zip(marks) {
        if let (Some(slot), Some(mark)) = (message.source_mut("snapshot"), mark) {
            *slot = mark;
        }
    }
    usize::from(!was_sorted)
}

fn marks_within_table(topic: &mut Topic) -> usize {
    let rows = topic.messages.iter().take_while(|message| message.is_snapshot()).count();
    let mut count = 0;
    for (at, message) in topic.messages.iter_mut().enumerate().take(rows) {
        if let Some(mark) = message.source_mut("snapshot")
            && matches!(mark.as_str(), Some("first" | "last"))
        {
            *mark = json!(match at {
                at if at + 1 == rows => "last_in_data_collection",
                0 => "first_in_data_collection",
                _ => "true",
            });
            count += 1;
        }
    }
    count
}

/// Transaction ids become the number of their transaction in the order of the transaction topic.
fn transaction_ids(theirs: &mut Topics, ours: &mut Topics, applied: &mut Applied) {
    let mut renamed = 0;
    number_transactions(theirs, |id| {
        renamed += 1;
        transaction_of(id).to_owned()
    });
    number_transactions(ours, str::to_owned);
    applied.count(Rule::TransactionId, renamed);
}

fn number_transactions(topics: &mut Topics, mut of: impl FnMut(&str) -> String) {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let is_metadata = |name: &String| name.ends_with(".transaction");
    let (metadata, rest): (Vec<_>, Vec<_>) = topics.iter_mut().partition(|(name, _)| is_metadata(name));
    for (name, topic) in metadata.into_iter().chain(rest) {
        let is_metadata = is_metadata(name);
        for message in &mut topic.messages {
            // A record has either an id of its own, which is its key too, or a block.
            let ids: Vec<&mut Json> = match message.value.get_mut("transaction").and_then(|block| block.get_mut("id")) {
                Some(id) => vec![id],
                None if is_metadata => [message.key.get_mut("id"), message.value.get_mut("id")].into_iter().flatten().collect(),
                None => continue,
            };
            for id in ids {
                if let Some(text) = id.as_str() {
                    let next = numbers.len();
                    *id = json!(numbers.entry(of(text)).or_insert(next));
                }
            }
        }
    }
}

/// The peer lists tables in no order, and messages under the name of a Java object. Ours are in the order of the events, which the
/// numbers of the events show; here both are sorted.
fn transaction_tables(theirs: &mut Topics, ours: &mut Topics, applied: &mut Applied) {
    let mut changed = 0;
    for (topics, counts) in [(theirs, true), (ours, false)] {
        for message in topics.values_mut().flat_map(|topic| &mut topic.messages) {
            let Some(tables) = message.value.get_mut("data_collections").and_then(Json::as_array_mut) else { continue };
            let before = tables.clone();
            for name in tables.iter_mut().filter_map(|table| table.get_mut("data_collection")) {
                if name.as_str().is_some_and(|name| name.contains("LogicalDecodingMessageId@")) {
                    *name = json!("message");
                }
            }
            tables.sort_by_key(Json::to_string);
            changed += usize::from(counts && *tables != before);
        }
    }
    applied.count(Rule::TransactionTables, changed);
}

/// The peer reads geometric types into Java objects, whose text has doubles where the server's has what was written.
fn geometric_text(topic: &mut Topic, columns: Option<&Vec<String>>, applied: &mut Applied) {
    let Some(columns) = columns else { return };
    for row in topic.messages.iter_mut().flat_map(images) {
        for (_, value) in row.iter_mut().filter(|(name, _)| columns.contains(name)) {
            let Some(text) = value.as_str().and_then(of_base64) else { continue };
            let plain = text.split(".0").enumerate().fold(String::new(), |out, (at, part)| {
                let point = at > 0 && part.starts_with(|c: char| c.is_ascii_digit());
                out + if point { ".0" } else { "" } + part
            });
            if plain != text {
                *value = json!(to_base64(plain.as_bytes()));
                applied.count(Rule::GeometricText, 1);
            }
        }
    }
}

const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn of_base64(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for letter in text.trim_end_matches('=').chars() {
        bits = bits << 6 | u32::try_from(ALPHABET.find(letter)?).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

fn to_base64(bytes: &[u8]) -> String {
    let letters: Vec<char> = ALPHABET.chars().collect();
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = letters.get((group >> (18 - 6 * place) & 63) as usize).filter(|_| place as usize <= chunk.len());
            out.push(letter.copied().unwrap_or('='));
        }
    }
    out
}

/// A NULL is published by the peer as the column's default: the one that the schema names, where there is a schema.
fn null_defaults(theirs: &mut Topic, ours: &Topic, defaulted: Option<&Vec<String>>, applied: &mut Applied) {
    let of_schemas: Vec<BTreeMap<String, Json>> = theirs.value_schemas.iter().map(defaults).collect();
    for (message, ours) in theirs.messages.iter_mut().zip(&ours.messages) {
        let columns: Vec<(&String, Option<&Json>)> = match message.value_schema {
            Some(schema) => of_schemas.get(schema).into_iter().flatten().map(|(name, default)| (name, Some(default))).collect(),
            None => defaulted.into_iter().flatten().map(|name| (name, None)).collect(),
        };
        for image in ["before", "after"] {
            let (Some(row), Some(ours)) =
                (message.value.get_mut(image).and_then(Json::as_object_mut), ours.value.get(image).and_then(Json::as_object))
            else {
                continue;
            };
            for (name, default) in &columns {
                let Some(value) = row.get_mut(*name).filter(|value| !value.is_null()) else { continue };
                if default.is_none_or(|default| value == default) && ours.get(*name) == Some(&Json::Null) {
                    *value = Json::Null;
                    applied.count(Rule::NullDefault, 1);
                }
            }
        }
    }
}

/// Defaults of nullable columns, as values.
fn defaults(schema: &Json) -> BTreeMap<String, Json> {
    let fields = row_fields(schema).map(Vec::as_slice).unwrap_or_default();
    let nullable = fields.iter().filter(|field| field.get("type").and_then(|kind| kind.get(1)) == Some(&json!("null")));
    nullable
        .filter_map(|field| {
            let (name, default) = (field.get("name")?.as_str()?, field.get("default")?);
            let kind = field.get("type")?.get(0)?;
            let kind = kind.get("type").unwrap_or(kind);
            // Bytes stand in a default as characters.
            let value = match default.as_str() {
                Some(text) if kind == "bytes" => {
                    let bytes: Vec<u8> = text.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
                    json!({"$hex": hex::encode(bytes)})
                }
                _ => default.clone(),
            };
            Some((name.to_owned(), value))
        })
        .collect()
}

/// Takes out what differs from run to run, but for whether it is there at all, and what is not compared.
fn forget_volatile(message: &mut Message, volatile: &[String]) {
    for field in volatile.iter().filter(|field| *field != "transaction.id") {
        let place = match field.split_once('.') {
            Some((block, name)) => message.value.get_mut(block).and_then(|block| block.get_mut(name)),
            None => message.value.get_mut(field.as_str()),
        };
        if let Some(value) = place.filter(|value| !value.is_null()) {
            *value = json!("(volatile)");
        }
    }
    if let Some(version) = message.source_mut("version") {
        *version = json!("(not compared)");
    }
    message.headers.retain(|(name, _)| !name.starts_with("guitong-") && !name.starts_with("__debezium.context."));
}
