//! A draft as a resource's file.

use std::fmt::Write as _;

use guitong_schemas::profile::TableProfile;
use guitong_schemas::standard::{Entity, EntityField, Obligation};

use super::{Draft, Line, Transform};

/// What the file says beside the mapping.
#[derive(Debug, Clone, Copy)]
pub struct Heading<'h> {
    pub code: &'h str,
    pub system: &'h str,
    /// `schema.table`.
    pub table: &'h str,
    pub title: &'h str,
}

/// Confidence from which a line is very probably right.
const HIGH: f64 = 0.85;
/// Confidence below which a line is a guess.
const LOW: f64 = 0.6;

impl Line {
    /// The confidence in a word.
    #[must_use]
    pub fn grade(&self) -> &'static str {
        match self.confidence {
            confidence if confidence >= HIGH => "high",
            confidence if confidence >= LOW => "medium",
            _ => "low",
        }
    }

    /// The right side of the mapping's line.
    fn value(&self) -> String {
        let Transform { constant, cel, format, open_end, unit, unit_from, edition, split, codes, unknown: _ } = &self.transform;
        let mut options: Vec<String> = Vec::new();
        match (constant, cel, &self.column) {
            (Some(constant), ..) => options.push(format!("const = {}", text(constant))),
            (_, Some(cel), _) => options.push(format!("cel = {}", text(cel))),
            (_, _, Some(column)) => options.push(format!("from = {}", text(column))),
            _ => {}
        }
        match format.as_slice() {
            [] => {}
            [one] => options.push(format!("format = {}", text(one))),
            several => {
                options.push(format!("format = [{}]", several.iter().map(|one| text(one)).collect::<Vec<_>>().join(", ")));
            }
        }
        options.extend(open_end.then(|| "open_end = true".to_owned()));
        for (key, value) in [("unit", unit), ("edition", edition), ("split", split)] {
            options.extend(value.map(|value| format!("{key} = {}", text(value))));
        }
        options.extend(unit_from.as_ref().map(|column| format!("unit = {{ from = {} }}", text(column))));
        if !codes.is_empty() {
            let codes: Vec<String> = codes.iter().map(|(value, code)| format!("{} = {}", text(value), text(code))).collect();
            options.push(format!("codes = {{ {} }}", codes.join(", ")));
        }
        match (options.as_slice(), &self.column) {
            ([_], Some(column)) if cel.is_none() && constant.is_none() => text(column),
            _ => format!("{{ {} }}", options.join(", ")),
        }
    }
}

impl Draft {
    /// The whole file: what was found, each line with how sure it is and why; what was not, as comments.
    #[must_use]
    pub fn to_toml(&self, heading: Heading<'_>, table: &TableProfile, entity: &Entity) -> String {
        let mut file = String::new();
        // Writing to a text cannot fail.
        let _ = self.write(&mut file, heading, table, entity);
        file
    }

    fn write(&self, file: &mut String, heading: Heading<'_>, table: &TableProfile, entity: &Entity) -> std::fmt::Result {
        let Heading { code, system, table: name, title } = heading;
        writeln!(
            file,
            "# A draft from {} sampled rows. Each line ends with how sure it is (high: 0.85 and more, low: under 0.6) and why.",
            table.sampled
        )?;
        writeln!(file, "# Read it, put right what is wrong, then: guitong check\n")?;
        writeln!(file, "code = {}  # a placeholder: the resource's code in the catalogue", text(code))?;
        writeln!(file, "title = {}\nsystem = {}\ntable = {}", text(title), text(system), text(name))?;
        writeln!(file, "entity = {}  # {}", text(&entity.name), comment(&entity.title_zh))?;
        writeln!(
            file,
            "sharing = {{ type = 2, condition = \"履行职责所需\" }}  # 1 unconditional, 2 on a condition, 3 never\n\n[map]"
        )?;
        for line in &self.lines {
            let title = entity.field(&line.field).map(|field| field.title_zh.as_str()).unwrap_or_default();
            let unknown: Vec<String> = line.transform.unknown.iter().map(|value| text(value)).collect();
            let unknown = if unknown.is_empty() { String::new() } else { format!("; without a code: {}", unknown.join(", ")) };
            let why = comment(&format!("{} {:.2} {title}: {}{unknown}", line.grade(), line.confidence, line.reason));
            writeln!(file, "{} = {}  # {why}", line.field, line.value())?;
        }
        let missing = || self.missing.iter().filter_map(|name| entity.field(name)).filter(|field| !field.derived);
        let declared = |field: &&EntityField| field.obligation != Obligation::Optional && !field.in_key;
        let open: Vec<&EntityField> = missing().filter(|field| !declared(field)).collect();
        if !open.is_empty() {
            writeln!(file, "\n# Fields for which no column was found:")?;
        }
        for field in open {
            let must = if field.in_key { ", part of the key: every record needs it" } else { "" };
            writeln!(file, "# {} = \"\"  # {}{must}", field.name, comment(&field.title_zh))?;
        }
        let absent: Vec<&EntityField> =
            missing().filter(|field| field.obligation == Obligation::Mandatory && !field.in_key).collect();
        let conditional: Vec<&EntityField> =
            missing().filter(|field| field.obligation == Obligation::Conditional && !field.in_key).collect();
        for field in conditional {
            writeln!(file, "# {} = \"\"  # {}, needed under a condition", field.name, comment(&field.title_zh))?;
        }
        if !absent.is_empty() {
            writeln!(
                file,
                "\n# Mandatory fields without a column: say why the source has them not, or map them above.\n[not_provided]"
            )?;
        }
        for field in absent {
            writeln!(file, "{} = {}", field.name, text(&format!("来源表无此项：{}", field.title_zh)))?;
        }
        if !self.left_out.is_empty() {
            writeln!(file, "\n# Columns that no field takes:")?;
        }
        for left in &self.left_out {
            let title = table.column(&left.column).and_then(|column| column.comment.clone());
            let title = title.map(|title| format!(" ({title})")).unwrap_or_default();
            writeln!(file, "# {}", comment(&format!("{}{title}: {}", left.column, left.reason)))?;
        }
        Ok(())
    }
}

/// A basic string of TOML.
fn text(value: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in value.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// On one line, without what no comment may hold.
fn comment(value: &str) -> String {
    value.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
