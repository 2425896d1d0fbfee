//! What a row came to: verdict, reasons and records, for people and for programs.

use std::fmt;
use std::sync::Arc;

use guitong_schemas::avro::DecodePlan;
use guitong_schemas::change::{Cell, Change};
use guitong_schemas::standard::{Entity, Rule};
use guitong_schemas::table::TableName;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::record;
use super::rows::{BadLine, LINE};
use super::stages::Fate;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    Warning,
    Rejected,
}

impl Verdict {
    pub(crate) const ALL: [Self; 3] = [Self::Ok, Self::Warning, Self::Rejected];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Warning,
    Error,
}

/// One rule that a row broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    pub(crate) level: Level,
    /// Empty where the whole row is meant.
    pub(crate) field: String,
    pub(crate) rule: String,
    pub(crate) zh: String,
    pub(crate) en: String,
    /// Masked by the grade of its field.
    pub(crate) value: Option<String>,
}

/// One row, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// The table beside the resource's own that it is of.
    pub(crate) table: Option<String>,
    /// `column=value`
    pub(crate) key: Vec<(String, String)>,
    /// Line of the file that the row was read from.
    pub(crate) line: Option<usize>,
    /// The source's columns as text; null ones are `None`.
    pub(crate) row: Vec<(String, Option<String>)>,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) records: Vec<Map<String, Json>>,
    /// Key of the row with which the record is told that both make.
    pub(crate) told_with: Option<String>,
}

impl Outcome {
    /// `own`: the resource's table.
    ///
    /// # Errors
    /// The text of what a published record does not read by.
    pub(crate) fn new(
        change: &Change,
        line: Option<usize>,
        fate: &Fate,
        own: &TableName,
        (entity, plan): (&Entity, &DecodePlan),
    ) -> Result<Self, String> {
        let row = texts(change);
        let key = change.table.key.iter().filter_map(|&at| row.get(at).cloned());
        let key = key.map(|(name, value)| (if name == LINE { "line".to_owned() } else { name }, value.unwrap_or_default()));
        let mut reasons = Vec::new();
        let mut records = Vec::new();
        for published in &fate.records {
            reasons.extend(published.header("guitong-quality").into_iter().flat_map(|quality| warnings(quality, entity)));
            records.extend(record::read(published, entity, plan)?);
        }
        // The records of one row mostly break the same rules.
        let mut seen: Vec<Reason> = Vec::with_capacity(reasons.len());
        reasons.retain(|reason| {
            !seen.contains(reason) && {
                seen.push(reason.clone());
                true
            }
        });
        reasons.extend(fate.rejections.iter().map(|rejection| Reason {
            level: Level::Error,
            field: rejection.field.clone(),
            rule: rejection.rule.clone(),
            zh: rejection.zh.clone(),
            en: rejection.en.clone(),
            value: rejection.value.clone(),
        }));
        let key = key.collect();
        let row = row.into_iter().filter(|(column, _)| column != LINE).collect();
        let table = Some(&change.table.name).filter(|table| *table != own).map(ToString::to_string);
        Ok(Self { table, key, line, row, reasons, records, told_with: None })
    }

    /// A line that is no row.
    pub(crate) fn unread(line: usize, bad: BadLine) -> Self {
        let (rule, zh, en) = bad.texts();
        let reason =
            Reason { level: Level::Error, field: String::new(), rule: rule.to_owned(), zh: zh.to_owned(), en, value: None };
        let key = vec![("line".to_owned(), line.to_string())];
        let (row, records) = (Vec::new(), Vec::new());
        Self { table: None, key, line: Some(line), row, reasons: vec![reason], records, told_with: None }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        if self.reasons.iter().any(|reason| reason.level == Level::Error) {
            Verdict::Rejected
        } else if self.reasons.is_empty() {
            Verdict::Ok
        } else {
            Verdict::Warning
        }
    }

    /// `column=value, column=value`
    pub(crate) fn key_text(&self) -> String {
        self.key.iter().map(|(column, value)| format!("{column}={value}")).collect::<Vec<_>>().join(", ")
    }

    /// As an example expects it: the rules, and the fields that are not null.
    pub(crate) fn expected(&self) -> Json {
        let reason = |reason: &Reason| serde_json::json!({ "field": reason.field, "rule": reason.rule });
        let reasons: Vec<Json> = self.reasons.iter().map(reason).collect();
        let set = |record: &Map<String, Json>| -> Json {
            record.iter().filter(|(_, value)| !value.is_null()).map(|(field, value)| (field.clone(), value.clone())).collect()
        };
        let mut expected = serde_json::json!({ "verdict": self.verdict(), "reasons": reasons });
        if let Some(object) = expected.as_object_mut() {
            match self.records.as_slice() {
                [] => object.insert("record".to_owned(), Json::Null),
                [record] => object.insert("record".to_owned(), set(record)),
                records => object.insert("records".to_owned(), records.iter().map(set).collect()),
            };
        }
        expected
    }

    pub(crate) fn to_json(&self) -> Json {
        let mut json = serde_json::json!({
            "key": self.key_text(),
            "verdict": self.verdict(),
            "reasons": self.reasons,
            "record": self.records.first(),
        });
        if let Some(object) = json.as_object_mut() {
            if self.records.len() > 1 {
                object.insert("records".to_owned(), self.records.iter().cloned().map(Json::Object).collect());
            }
            if let Some(line) = self.line {
                object.insert("line".to_owned(), line.into());
            }
            for (name, text) in [("table", &self.table), ("told_with", &self.told_with)] {
                object.extend(text.clone().map(|text| (name.to_owned(), text.into())));
            }
        }
        json
    }
}

/// Columns and their texts.
fn texts(change: &Change) -> Vec<(String, Option<String>)> {
    let Some(image) = &change.after else { return Vec::new() };
    let text = |cell| match cell {
        Ok(Cell::Text(text) | Cell::Binary(text)) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    };
    change.table.columns.iter().zip(image.cells()).map(|(column, cell)| (column.name.clone(), text(cell))).collect()
}

/// The values of columns in a change's row, trimmed; `None` where one is empty.
pub(crate) fn key_of(change: &Change, columns: &[String]) -> Option<Vec<String>> {
    let row = texts(change);
    let value = |column: &String| {
        let (_, value) = row.iter().find(|(name, _)| name == column)?;
        value.as_deref().map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    columns.iter().map(value).collect()
}

/// `field:rule` of every warning, separated by commas.
fn warnings(quality: &[u8], entity: &Entity) -> Vec<Reason> {
    let marks = std::str::from_utf8(quality).unwrap_or_default().split(',').filter_map(|mark| mark.split_once(':'));
    let reason = |(field, code): (&str, &str)| {
        let title = entity.field(field).map_or(field, |field| field.title_zh.as_str());
        let (zh, en) = Rule::from_code(code).map_or((code, code), |rule| (rule.zh(), rule.en()));
        Reason {
            level: Level::Warning,
            field: field.to_owned(),
            rule: code.to_owned(),
            zh: format!("{title}：{zh}"),
            en: format!("{field}: {en}"),
            value: None,
        }
    };
    marks.map(reason).collect()
}

/// Compiles the schema that records of an entity are written with.
///
/// # Errors
/// The text of what is wrong with the schema.
pub(crate) fn plan(entity: &Arc<Entity>) -> Result<DecodePlan, String> {
    DecodePlan::compile(&entity.schema_json).map_err(|error| error.to_string())
}
