//! `resources/<name>.toml`: a catalogue entry, the entity it feeds, and the mapping.

use std::collections::BTreeMap;

use super::Name;
use crate::table::TableName;

#[derive(Debug, Clone)]
pub struct Resource {
    pub name: Name,
    /// Catalogue code, `3450010102/000017`.
    pub code: String,
    pub title: String,
    pub system: Name,
    pub table: TableName,
    /// Name of an entity of the standard.
    pub entity: String,
    pub sharing: Sharing,
    /// Keyed by the entity's field.
    pub map: BTreeMap<String, FieldMapping>,
    /// Mandatory fields that the source does not have, with the reason.
    pub not_provided: BTreeMap<String, String>,
    /// Rises when the resource is rebuilt.
    pub revision: u32,
}

/// 共享类型 (政务信息资源共享管理暂行办法).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sharing {
    /// 1 无条件共享.
    Unconditional,
    /// 2 有条件共享: needs an approval.
    Conditional { condition: String },
    /// 3 不予共享: never flows.
    Refused { basis: String },
}

/// Where a field's value comes from and what is done to it, in this order: value, default, code list or format, unit.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldMapping {
    pub value: ValueSource,
    /// Used where the source value is null or empty.
    pub default: Option<String>,
    /// Source value -> standard value; a value that is not listed is an error of the record unless `other` is set.
    pub codes: BTreeMap<String, String>,
    /// Standard value of source values that `codes` does not list.
    pub other: Option<String>,
    /// Date or time formats, tried in order (`yyyyMMdd`, `yyyy-MM-dd HH:mm:ss`, `epoch_ms`, `excel`, …); none: every form
    /// that is unambiguous by itself.
    pub formats: Vec<String>,
    /// Reads 2099-12-31, 长期, 永久 and `--` as the open end 9999-12-31.
    pub open_end: bool,
    pub unit: Option<Unit>,
    /// Edition of the code list at the source (`2011` for GB/T 4754, `1984` for GB/T 4658).
    pub edition: Option<String>,
    /// Splits one text into a list field.
    pub split: Option<String>,
    /// Line and column in the resource's file, for messages.
    pub at: Place,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ValueSource {
    Column(String),
    /// Several columns joined; null and empty ones are left out.
    Joined {
        columns: Vec<String>,
        separator: String,
    },
    Constant(String),
    /// A CEL expression over `row.<column>`.
    Cel(String),
}

/// What one unit of the source column is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 元
    Yuan,
    /// 万元, the unit of the standard's amounts
    TenThousandYuan,
    /// 亿元
    HundredMillionYuan,
}

/// 1-based.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}
