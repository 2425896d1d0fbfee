//! Names of topics, records and fields.
//!
//! Topics and records keep ASCII letters, digits and underscores; every other UTF-16 unit of a schema's or table's name becomes
//! `_uXXXX`, as does a leading digit and an underscore that would read as such an escape, so two tables never share a name.
//! Fields also keep letters of other scripts, as far as Avro's Java implementation takes them (it looks at UTF-16 units, so a
//! character beyond the basic plane is escaped).

use std::borrow::Cow;

use crate::table::TableName;

/// `<prefix>.<schema>.<table>`, both names escaped.
#[must_use]
pub fn topic_name(prefix: &str, table: &TableName) -> String {
    format!("{prefix}.{}.{}", escape(&table.schema, is_plain), escape(&table.name, is_plain))
}

/// The Avro namespace of a topic's records: each part of the topic as a legal Avro name.
#[must_use]
pub fn namespace(topic: &str) -> String {
    let parts: Vec<Cow<'_, str>> =
        topic.split('.').map(|part| if is_escaped(part) { Cow::Borrowed(part) } else { escape(part, is_plain) }).collect();
    parts.join(".")
}

/// The Avro field of a column: the column's name where Avro takes it.
#[must_use]
pub fn field_name(column: &str) -> Cow<'_, str> {
    escape(column, is_letter_or_digit)
}

fn is_escaped(part: &str) -> bool {
    part.chars().enumerate().all(|(at, c)| is_plain(c) && !(at == 0 && c.is_ascii_digit()))
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Java's `Character.isLetterOrDigit(char)` for the scripts that names are written in; any other character is escaped, which is
/// always safe.
fn is_letter_or_digit(c: char) -> bool {
    is_plain(c)
        || matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}'
            | '\u{ac00}'..='\u{d7a3}' | '\u{0391}'..='\u{03a1}' | '\u{03a3}'..='\u{03c9}' | '\u{0410}'..='\u{044f}'
            | '\u{00c0}'..='\u{00d6}' | '\u{00d8}'..='\u{00f6}' | '\u{00f8}'..='\u{017f}')
}

fn escape(name: &str, keeps: fn(char) -> bool) -> Cow<'_, str> {
    let needs_escape =
        |at: usize, c: char| !keeps(c) || at == 0 && c.is_ascii_digit() || c == '_' && reads_as_escape(&name[at..]);
    if !name.is_empty() && !name.char_indices().any(|(at, c)| needs_escape(at, c)) {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len() * 2 + 1);
    for (at, c) in name.char_indices() {
        if needs_escape(at, c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("_u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    if out.is_empty() {
        out.push('_');
    }
    Cow::Owned(out)
}

/// Whether text that starts with an underscore looks like `_uXXXX`.
fn reads_as_escape(text: &str) -> bool {
    matches!(text.as_bytes(), [b'_', b'u', digits @ ..] if digits.len() >= 4 && digits.iter().take(4).all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_stay_and_others_are_escaped() {
        for (table, topic) in [
            ("qy_jbxx", "raw.licensing.public.qy_jbxx"),
            ("统计", "raw.licensing.public._u7edf_u8ba1"),
            ("odd name-1$", "raw.licensing.public.odd_u0020name_u002d1_u0024"),
            ("1st", "raw.licensing.public._u0031st"),
            ("a.b", "raw.licensing.public.a_u002eb"),
            ("a_u4e2d", "raw.licensing.public.a_u005fu4e2d"),
            ("𠮷", "raw.licensing.public._ud842_udfb7"),
        ] {
            assert_eq!(topic_name("raw.licensing", &TableName::new("public", table)), topic);
        }
    }

    #[test]
    fn a_namespace_is_legal_where_the_topic_is_not() {
        assert_eq!(namespace("raw.licence-office.public._u7edf"), "raw.licence_u002doffice.public._u7edf");
    }

    #[test]
    fn chinese_columns_keep_their_names() {
        assert_eq!(field_name("统一社会信用代码"), "统一社会信用代码");
        assert_eq!(field_name("a-b"), "a_u002db");
        assert_eq!(field_name("二〇二六"), "二_u3007二六");
        assert_eq!(field_name(""), "_");
    }

    proptest! {
        #[test]
        fn two_names_never_become_one(names in proptest::collection::vec("[a_u0-9中\\-.A ]{0,8}", 2..20)) {
            let mut seen: HashMap<String, &String> = HashMap::new();
            for name in &names {
                let escaped = escape(name, is_plain).into_owned();
                prop_assert!(is_escaped(&escaped));
                if let Some(other) = seen.insert(escaped, name) && !other.is_empty() && !name.is_empty() {
                    prop_assert!(other == name || other == "_" || name == "_");
                }
            }
        }
    }
}
