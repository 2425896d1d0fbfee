//! Random valid directories: what is loaded is what was declared, however the files are laid out.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use guitong_schemas::contract::mapping::ValueSource;
use guitong_schemas::contract::subscription::Mask;
use guitong_schemas::contract::{Directory, Purpose, SourceConfig, load};
use proptest::prelude::*;
use toml::{Table, Value};

const MANDATORY: [&str; 9] = [
    "uscc",
    "name",
    "entity_type",
    "legal_rep_name",
    "established",
    "status",
    "reg_authority",
    "reg_address",
    "reg_address_division",
];
const OPTIONAL: [&str; 6] = ["org_code", "reg_no", "scope", "phone", "contact", "op_address"];
const MASKS: [(&str, Mask); 4] = [("none", Mask::None), ("name", Mask::Name), ("hash", Mask::Hash), ("drop", Mask::Drop)];

/// What a directory is made from.
#[derive(Debug, Clone)]
struct Declared {
    title: String,
    poll_ms: u64,
    partitions: u32,
    /// Column by field.
    map: BTreeMap<String, String>,
    codes: BTreeMap<String, String>,
    reason: String,
    fields: Vec<String>,
    masks: BTreeMap<String, usize>,
    purpose: String,
    sink_table: String,
}

fn words() -> impl Strategy<Value = String> {
    // Quotes, backslashes, dots, brackets, several scripts: whatever a table's or column's name may hold.
    "[a-zA-Z\"'\\\\.\\[\\]=# {}$企业登记é𠮷\t-]{0,12}[a-z业]"
}

fn declared() -> impl Strategy<Value = Declared> {
    let columns = prop::collection::vec(words(), MANDATORY.len() + OPTIONAL.len());
    let codes = prop::collection::btree_map(words(), prop::sample::select(vec!["1", "2", "3", "4", "9"]), 1..5);
    let optional = prop::sample::subsequence(OPTIONAL.to_vec(), 0..=OPTIONAL.len());
    let fields = prop::sample::subsequence(MANDATORY.to_vec(), 1..=MANDATORY.len());
    let masks = prop::collection::vec(prop::option::of(0..MASKS.len()), MANDATORY.len());
    let texts = (words(), words(), words(), words());
    (columns, codes, optional, fields, masks, texts, 1..=60_000_u64, 1..=1000_u32).prop_map(
        |(columns, codes, optional, fields, masks, (title, reason, purpose, table), poll_ms, partitions)| {
            let names = MANDATORY.iter().chain(&optional).map(|name| (*name).to_owned());
            let masked = fields.iter().zip(masks).filter_map(|(field, mask)| Some(((*field).to_owned(), mask?)));
            // A mask for text does not fit the date.
            let masks = masked.filter(|(field, mask)| field != "established" || *mask != 1).collect();
            Declared {
                title,
                poll_ms,
                partitions,
                map: names.zip(columns).collect(),
                codes: codes.into_iter().map(|(from, to)| (from, to.to_owned())).collect(),
                reason,
                fields: fields.into_iter().map(str::to_owned).collect(),
                masks,
                purpose,
                sink_table: table,
            }
        },
    )
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

impl Declared {
    fn files(&self) -> Vec<(&'static str, Table)> {
        let mut map: Table = self.map.iter().map(|(field, column)| (field.clone(), text(column))).collect();
        let codes: Table = self.codes.iter().map(|(from, to)| (from.clone(), text(to))).collect();
        let status = table([("from", text(&self.map["status"])), ("codes", Value::Table(codes))]);
        map.insert("status".to_owned(), Value::Table(status));
        let masks = self.masks.iter().map(|(field, mask)| (field.clone(), text(MASKS[*mask].0))).collect();
        let approval = table([
            ("number", text("桂数共〔2026〕1号")),
            ("until", "2027-12-31".parse::<toml::value::Datetime>().unwrap().into()),
        ]);
        let sharing = table([("type", Value::Integer(2)), ("condition", text(&self.reason))]);
        let sink = table([("kind", text("sqlite")), ("path", text("sinks/a.db")), ("table", text(&self.sink_table))]);
        let fields = self.fields.iter().map(|field| text(field)).collect();
        let partitions = Value::Integer(i64::from(self.partitions));
        let exchange = table([("name", text("random")), ("title", text(&self.title)), ("std_partitions", partitions)]);
        let system = table([
            ("title", text(&self.title)),
            ("department", text("office")),
            ("kind", text("sqlite")),
            ("path", text("a.db")),
            ("poll", text(&format!("{} ms", self.poll_ms))),
            ("tables", Value::Array(vec![text("*")])),
            ("snapshot", Value::Table(table([("enabled", Value::Boolean(false))]))),
        ]);
        let resource = table([
            ("code", text("3450010102/000001")),
            ("title", text(&self.title)),
            ("system", text("source")),
            ("table", text("main.t")),
            ("entity", text("LegalEntity")),
            ("sharing", Value::Table(sharing)),
            ("map", Value::Table(map)),
            ("not_provided", Value::Table(table([("reg_authority_code", text(&self.reason))]))),
        ]);
        let subscription = table([
            ("subscriber", text("office")),
            ("resource", text("entity")),
            ("purpose", text(&self.purpose)),
            ("approval", Value::Table(approval)),
            ("fields", Value::Array(fields)),
            ("masks", Value::Table(masks)),
            ("secret", text("for tests only")),
            ("sink", Value::Table(sink)),
        ]);
        vec![
            ("exchange.toml", exchange),
            ("departments/office.toml", table([("title", text("办公室")), ("code", text("11450000PDY000044M"))])),
            ("systems/source.toml", system),
            ("resources/entity.toml", resource),
            ("subscriptions/copy.toml", subscription),
        ]
    }
}

/// One way to write the same tables.
#[derive(Debug, Clone, Copy)]
struct Layout {
    inline: bool,
    reversed: bool,
    comments: bool,
}

const PLAIN: Layout = Layout { inline: false, reversed: false, comments: false };

impl Layout {
    fn write(self, table: &Table) -> String {
        let mut out = String::new();
        self.section(table, "", &mut out);
        out
    }

    fn section(self, table: &Table, path: &str, out: &mut String) {
        let mut entries: Vec<_> = table.iter().collect();
        if self.reversed {
            entries.reverse();
        }
        let nested = |value: &Value| value.is_table() && !self.inline;
        for (key, value) in entries.iter().filter(|(_, value)| !nested(value)) {
            if self.comments {
                out.push_str("\n  # 说明 \"=\n");
            }
            let space = if self.comments { "   " } else { " " };
            out.push_str(&format!("{}{space}={space}{value}\n", quoted(key)));
        }
        for (key, value) in entries.iter().filter(|(_, value)| nested(value)) {
            let path = if path.is_empty() { quoted(key) } else { format!("{path}.{}", quoted(key)) };
            out.push_str(&format!("[{path}]{}\n", if self.comments { " # 小节" } else { "" }));
            self.section(value.as_table().unwrap(), &path, out);
        }
    }
}

/// A basic string of TOML, whose escapes are those of JSON.
fn quoted(key: &str) -> String {
    serde_json::to_string(key).unwrap()
}

fn written(declared: &Declared, layout: Layout) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (file, table) in declared.files() {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, layout.write(&table)).unwrap();
    }
    root
}

fn loaded(root: &Path) -> Result<Directory, TestCaseError> {
    let now = "2026-11-23T12:00:00+08:00".parse().unwrap();
    load(root, &|_| None, now, Purpose::Run).map_err(|problems| TestCaseError::fail(problems.render(false)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_loaded_is_what_was_declared(declared in declared()) {
        let root = written(&declared, PLAIN);
        let directory = loaded(root.path())?;
        let system = &directory.systems["source"];
        let SourceConfig::Sqlite(source) = &system.source else { return Err(TestCaseError::fail("not SQLite")) };
        prop_assert_eq!((&system.title, source.poll), (&declared.title, Duration::from_millis(declared.poll_ms)));
        prop_assert_eq!(directory.exchange.std_partitions, declared.partitions);
        let resource = &directory.resources["entity"];
        let columns: BTreeMap<String, String> = resource.map.iter().map(|(field, mapping)| match &mapping.value {
            ValueSource::Column(column) => (field.clone(), column.clone()),
            other => (field.clone(), format!("{other:?}")),
        }).collect();
        prop_assert_eq!(&columns, &declared.map);
        prop_assert_eq!(&resource.map["status"].codes, &declared.codes);
        prop_assert_eq!(&resource.not_provided["reg_authority_code"], &declared.reason);
        let subscription = &directory.subscriptions["copy"];
        prop_assert_eq!(&subscription.fields, &declared.fields);
        prop_assert_eq!(&subscription.purpose, &declared.purpose);
        let masks: BTreeMap<String, Mask> = declared.masks.iter().map(|(field, mask)| (field.clone(), MASKS[*mask].1)).collect();
        prop_assert_eq!(&subscription.masks, &masks);
    }

    #[test]
    fn layout_and_comments_do_not_change_the_revision(
        declared in declared(), inline: bool, reversed: bool, comments: bool, longer in words(),
    ) {
        let plain = loaded(written(&declared, PLAIN).path())?;
        let other = loaded(written(&declared, Layout { inline, reversed, comments }).path())?;
        prop_assert_eq!(plain.revision, other.revision);
        let changed = Declared { purpose: format!("{}{longer}", declared.purpose), ..declared };
        prop_assert_ne!(plain.revision, loaded(written(&changed, PLAIN).path())?.revision);
    }
}

/// A valid directory, damaged: characters are taken out, doubled, moved and replaced.
fn damaged() -> impl Strategy<Value = (usize, Vec<(f64, u8, char)>)> {
    let characters =
        prop::sample::select(vec!['"', '\'', '[', ']', '{', '}', '=', ',', '\n', '#', '.', '\\', '$', '\0', '业', 'a', '0', '-']);
    (0..5_usize, prop::collection::vec((0.0..1.0, 0..4_u8, characters), 1..6))
}

fn damage(text: &str, hits: &[(f64, u8, char)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (place, kind, character) in hits {
        let at = (place * characters.len() as f64) as usize;
        match kind {
            _ if characters.is_empty() => characters.push(*character),
            0 => drop(characters.remove(at)),
            1 => characters.insert(at, *character),
            2 => characters[at] = *character,
            _ => characters.truncate(at),
        }
    }
    characters.into_iter().collect()
}

/// A text that was cut in two: its end stands before the `=` of what follows on its line.
#[test]
fn the_end_of_a_secret_is_no_key() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("subscriptions")).unwrap();
    let text = "purpose = \"p\"\nsink = { kind = \"postgres\", url = \"postgres:\n//u:geheim@h/x\", table = \"a.b\" }\n";
    fs::write(root.path().join("subscriptions/x.toml"), text).unwrap();
    let now = "2026-11-23T12:00:00+08:00".parse().unwrap();
    let problems = load(root.path(), &|_| None, now, Purpose::Run).unwrap_err();
    let shown = format!("{}\n{}", problems.render(true), problems.to_json());
    assert!(shown.contains("subscriptions/x.toml") && !shown.contains("geheim"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_files_are_reported_and_show_no_secret((file, hits) in damaged()) {
        const FILES: [(&str, &str); 5] = [
            ("exchange.toml", "name = \"n\"\ntitle = \"t\"\n[log]\nkind = \"kafka\"\nbrokers = [\"k:9092\"]\n[log.properties]\n\"sasl.password\" = \"geheim\"\n[registry]\nurl = \"http://r:1\"\nuser = \"u\"\npassword = \"geheim\"\n"),
            ("departments/d.toml", "title = \"企业\"\ncode = \"11450000PDY00001X0\"\n"),
            ("systems/s.toml", "title = \"企业\"\ndepartment = \"d\"\nkind = \"postgres\"\nurl = \"postgres://u:geheim@h/d\"\ntables = [\"qy_*\"]\n"),
            ("resources/r.toml", "code = \"3450010102/000003\"\ntitle = \"t\"\nsystem = \"s\"\ntable = \"qy_a\"\nentity = \"InvestmentProject\"\nsharing = { type = 1 }\n[map]\nproject_code = \"a\"\nname = \"b\"\napproval_type = { const = \"01\" }\nindustry = { from = \"c\", edition = \"2011\" }\ndivision = \"d\"\ntotal_investment = { from = \"e\", unit = \"元\" }\nowner_name = { cel = \"row.f + 'x'\" }\nowner_uscc = \"g\"\napply_date = { from = [\"i\", \"j\"], join = \"-\" }\nstatus = { from = \"k\", codes = { \"建\" = \"40\" } }\n"),
            ("subscriptions/x.toml", "subscriber = \"d\"\nresource = \"r\"\npurpose = \"p\"\nfields = [\"status\"]\nwhere = \"status == '40'\"\nsecret = \"geheim\"\nsink = { kind = \"postgres\", url = \"postgres://u:geheim@h/x\", table = \"a.b\" }\n"),
        ];
        let root = tempfile::tempdir().unwrap();
        for (at, (path, text)) in FILES.iter().enumerate() {
            let target = root.path().join(path);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, if at == file { damage(text, &hits) } else { (*text).to_owned() }).unwrap();
        }
        let now = "2026-11-23T12:00:00+08:00".parse().unwrap();
        if let Err(problems) = load(root.path(), &|_| None, now, Purpose::Run) {
            prop_assert!(!problems.is_empty());
            let shown = format!("{}\n{}", problems.render(true), problems.to_json());
            prop_assert!(!shown.contains("geheim"), "{}", shown);
        }
    }
}
