//! The directory's revision: SHA-256 of what its files say, whatever their layout, comments and order of keys; files of the standard count
//! byte by byte.

use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use super::Revision;

/// Gathers files; references to secrets count as they are written, never what they refer to.
#[derive(Debug, Default)]
pub(super) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(super) fn add(&mut self, file: &str, table: &DeTable<'_>) {
        let mut canonical = String::new();
        text(file, &mut canonical);
        write_table(table, &mut canonical);
        canonical.push('\n');
        self.0.update(canonical);
    }

    /// A file that counts as it is written.
    pub(super) fn add_text(&mut self, file: &str, content: &str) {
        let mut canonical = String::new();
        text(file, &mut canonical);
        text(content, &mut canonical);
        canonical.push('\n');
        self.0.update(canonical);
    }

    pub(super) fn finish(self) -> Revision {
        Revision(self.0.finalize().into())
    }
}

fn text(value: &str, out: &mut String) {
    // A length before the text needs no escapes and leaves no doubt.
    out.push_str(&format!("{}:{value}", value.len()));
}

fn write_table(table: &DeTable<'_>, out: &mut String) {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.get_ref().as_ref());
    out.push('{');
    for (key, value) in entries {
        text(key.get_ref(), out);
        write_value(value.get_ref(), out);
    }
    out.push('}');
}

fn write_value(value: &DeValue<'_>, out: &mut String) {
    match value {
        DeValue::String(value) => text(value, out),
        DeValue::Integer(value) => {
            let number = i64::from_str_radix(value.as_str(), value.radix());
            out.push_str(&number.map_or_else(|_| format!("i{value};"), |number| format!("i{number};")));
        }
        DeValue::Float(value) => out.push_str(&format!("f{};", value.as_str())),
        DeValue::Boolean(value) => out.push_str(if *value { "t" } else { "f" }),
        DeValue::Datetime(value) => out.push_str(&format!("d{value};")),
        DeValue::Array(items) => {
            out.push('[');
            items.iter().for_each(|item| write_value(item.get_ref(), out));
            out.push(']');
        }
        DeValue::Table(table) => write_table(table, out),
    }
}
