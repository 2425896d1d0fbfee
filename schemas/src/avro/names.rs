//! Names of topics, records and fields.
//!
//! By default topics and records keep ASCII letters, digits and underscores; every other UTF-16 unit of a schema's or table's name
//! becomes `_uXXXX`, as does a leading digit and an underscore that would read as such an escape, so two tables never share a name.
//! Fields also keep letters of other scripts, as far as Avro's Java implementation takes them (it looks at UTF-16 units, so a
//! character beyond the basic plane is escaped). [`Names`] has the modes that follow Debezium instead, in which two tables can share a
//! topic; whoever publishes them refuses that.

use std::borrow::Cow;

use super::form::Names;
use super::schema::MAX_TOPIC;
use crate::table::TableName;

/// `<prefix>.<schema>.<table>`.
#[must_use]
pub fn topic_name(prefix: &str, table: &TableName, names: Names) -> String {
    let part = |name: &'_ str| match names {
        Names::Escaped => escape(name, is_plain).into_owned(),
        Names::Debezium | Names::Avro | Names::AvroUnicode => {
            replace(name, |c| is_plain(c) || matches!(c, '.' | '-'), underscore)
        }
    };
    format!("{prefix}.{}.{}", part(&table.schema), part(&table.name))
}

/// The topic of an application's events of one kind, `<prefix>.outbox-<kind>`. Behind the prefix it has no dot, which every table's topic
/// has there in every mode, so it is nobody else's. `None`: it would be longer than Kafka takes.
#[must_use]
pub fn event_topic(prefix: &str, kind: &str) -> Option<String> {
    let topic = format!("{prefix}.outbox-{}", escape(kind, |c| is_plain(c) || c == '-'));
    (topic.len() <= MAX_TOPIC).then_some(topic)
}

/// The Avro namespace of a topic's records: each part of the topic as a legal Avro name.
#[must_use]
pub fn namespace(topic: &str, names: Names) -> String {
    let parts: Vec<String> = topic
        .split('.')
        .map(|part| match names {
            Names::Escaped | Names::Debezium => Cow::Borrowed(part),
            Names::Avro => Cow::Owned(replace(part, is_plain, underscore)),
            Names::AvroUnicode => Cow::Owned(replace(part, |c| c.is_ascii_alphanumeric(), unicode)),
        })
        .map(|part| if is_legal(&part) { part.into_owned() } else { escape(&part, is_plain).into_owned() })
        .collect();
    parts.join(".")
}

/// The Avro field of a column: the column's name where Avro takes it.
#[must_use]
pub fn field_name(column: &str, names: Names) -> Cow<'_, str> {
    let replaced = |keeps: fn(char) -> bool, with: fn(u16, &mut String)| {
        let name = replace(column, keeps, with);
        match name.strip_prefix(|c: char| c.is_ascii_digit()) {
            None => name,
            Some(rest) => {
                let mut out = String::with_capacity(name.len() + 5);
                name.encode_utf16().take(1).for_each(|unit| with(unit, &mut out));
                out + rest
            }
        }
    };
    match names {
        Names::Escaped | Names::Debezium => escape(column, is_letter_or_digit),
        Names::Avro => Cow::Owned(replaced(is_plain, underscore)),
        Names::AvroUnicode => Cow::Owned(replaced(|c| c.is_ascii_alphanumeric(), unicode)),
    }
}

/// Each UTF-16 unit of the characters that are not kept, as Java sees them.
fn replace(name: &str, keeps: fn(char) -> bool, with: fn(u16, &mut String)) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if keeps(c) {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|&unit| with(unit, &mut out));
        }
    }
    out
}

fn underscore(_unit: u16, out: &mut String) {
    out.push('_');
}

fn unicode(unit: u16, out: &mut String) {
    out.push_str(&format!("_u{unit:04x}"));
}

fn is_legal(part: &str) -> bool {
    !part.is_empty() && part.chars().enumerate().all(|(at, c)| is_plain(c) && !(at == 0 && c.is_ascii_digit()))
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
            c.encode_utf16(&mut [0; 2]).iter().for_each(|&unit| unicode(unit, &mut out));
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
            assert_eq!(topic_name("raw.licensing", &TableName::new("public", table), Names::Escaped), topic);
        }
    }

    #[test]
    fn a_namespace_is_legal_where_the_topic_is_not() {
        assert_eq!(namespace("raw.licence-office.public._u7edf", Names::Escaped), "raw.licence_u002doffice.public._u7edf");
    }

    #[test]
    fn chinese_columns_keep_their_names() {
        assert_eq!(field_name("统一社会信用代码", Names::Escaped), "统一社会信用代码");
        assert_eq!(field_name("a-b", Names::Escaped), "a_u002db");
        assert_eq!(field_name("二〇二六", Names::Escaped), "二_u3007二六");
        assert_eq!(field_name("", Names::Escaped), "_");
    }

    #[test]
    fn debezium_names_are_followed_as_far_as_avro_takes_them() {
        let topic = |table, names| topic_name("gx", &TableName::new("public", table), names);
        let record = |table, names| namespace(&topic(table, names), names);
        for names in [Names::Debezium, Names::Avro, Names::AvroUnicode] {
            assert_eq!(topic("企业登记", names), "gx.public.____");
            assert_eq!(topic("odd name-1$", names), "gx.public.odd_name-1_");
            assert_eq!(topic("𠮷", names), "gx.public.__");
        }
        assert_eq!(record("企业登记", Names::Debezium), "gx.public.____");
        assert_eq!(record("odd name-1$", Names::Debezium), "gx.public.odd_name_u002d1_");
        assert_eq!(record("odd name-1$", Names::Avro), "gx.public.odd_name_1_");
        assert_eq!(record("odd name-1$", Names::AvroUnicode), "gx.public.odd_u005fname_u002d1_u005f");
        assert_eq!(field_name("企业 a", Names::Debezium), "企业_u0020a");
        assert_eq!(field_name("企业 a", Names::Avro), "___a");
        assert_eq!(field_name("企_a", Names::AvroUnicode), "_u4f01_u005fa");
        assert_eq!(field_name("1st", Names::Avro), "_st");
        assert_eq!(field_name("1st", Names::AvroUnicode), "_u0031st");
    }

    #[test]
    fn kinds_of_events_have_topics_that_no_table_has() {
        for (kind, topic) in [
            ("order", "raw.a.outbox-order"),
            ("loan-request", "raw.a.outbox-loan-request"),
            ("a.b", "raw.a.outbox-a_u002eb"),
            ("企业", "raw.a.outbox-_u4f01_u4e1a"),
        ] {
            assert_eq!(event_topic("raw.a", kind).as_deref(), Some(topic));
        }
        let longest = 249 - "raw.a.outbox-".len();
        assert!(event_topic("raw.a", &"x".repeat(longest)).is_some());
        assert_eq!(event_topic("raw.a", &"x".repeat(longest + 1)), None);
        assert_eq!(event_topic("raw.a", &"企".repeat(40)), None);
    }

    proptest! {
        #[test]
        fn an_event_topic_says_its_kind_and_is_no_tables(
            (head, tail) in ("[a_u0-9中\\-.A ]{1,4}", "[a_u0-9中\\-.A ]{1,4}"),
            other in "[a_u0-9中\\-.A ]{1,4}",
        ) {
            let kind = format!("{head}.{tail}");
            let topic = event_topic("raw.a", &kind);
            prop_assert_eq!(head == other, event_topic("raw.a", &head) == event_topic("raw.a", &other));
            let table = TableName::new(format!("outbox-{head}"), tail);
            for names in [Names::Escaped, Names::Debezium, Names::Avro, Names::AvroUnicode] {
                prop_assert_ne!(&topic, &Some(topic_name("raw.a", &table, names)));
            }
        }

        #[test]
        fn two_names_never_become_one(names in proptest::collection::vec("[a_u0-9中\\-.A ]{0,8}", 2..20)) {
            let mut seen: HashMap<String, &String> = HashMap::new();
            for name in &names {
                let escaped = escape(name, is_plain).into_owned();
                prop_assert!(is_legal(&escaped));
                if let Some(other) = seen.insert(escaped, name) && !other.is_empty() && !name.is_empty() {
                    prop_assert!(other == name || other == "_" || name == "_");
                }
            }
        }
    }
}
