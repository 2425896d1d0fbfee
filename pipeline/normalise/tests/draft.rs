//! Drafts judged on the twelve layouts of `tests/layouts`: the right answer for each column is what the layout's own mapping says.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use guitong_normalise::draft::{Draft, Line, draft};
use guitong_schemas::contract::load::{Purpose, load};
use guitong_schemas::contract::mapping::{FieldMapping, UnitSource, ValueSource};
use guitong_schemas::contract::{Directory, Resource};
use guitong_schemas::profile::{Cell, SampledColumn, TableProfile, TableSample, Values};
use guitong_schemas::standard::{Clock, Standard, Zone};
use guitong_schemas::table::{Column, ColumnType, Table, TableName};
use pinyin::ToPinyin;
use serde_json::Value;

/// 2026-11-23, as the examples are.
const NOW: i64 = 1_795_363_200_000_000;

fn layouts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/layouts")
}

fn directory() -> Directory {
    let purpose = Purpose::Check { unset_secrets: true };
    let now = jiff::Timestamp::from_microsecond(NOW).unwrap();
    load(&layouts(), &|_| None, now, purpose).unwrap_or_else(|problems| panic!("{}", problems.render(false)))
}

/// Name, declared type and comment of a column.
type Described = (String, String, Option<String>);

/// A table's columns with their declared types and comments, and the table's comment, as the layout's SQL has them.
fn described(system: &str, table: &str) -> (Vec<Described>, Option<String>) {
    let sql = fs::read_to_string(layouts().join(format!("databases/{system}.sql"))).unwrap();
    let opening = format!("CREATE TABLE \"{table}\" (");
    let body = sql.split(&opening).nth(1).unwrap_or_else(|| panic!("{table} in {system}.sql")).split("\n);").next().unwrap();
    let comment = |of: &str| {
        let line = sql.lines().find_map(|line| line.strip_prefix(of))?;
        Some(line.trim().strip_prefix("IS '")?.strip_suffix("';")?.to_owned())
    };
    let column = |line: &str| {
        let (name, rest) = line.trim().strip_prefix('"')?.split_once('"')?;
        let declared = rest.trim().trim_end_matches(',').replace(" NOT NULL", "");
        Some((name.to_owned(), declared, comment(&format!("COMMENT ON COLUMN \"{table}\".\"{name}\""))))
    };
    (body.lines().filter_map(column).collect(), comment(&format!("COMMENT ON TABLE \"{table}\"")))
}

/// The rows of a resource's examples.
fn rows(resource: &Resource) -> Vec<Value> {
    let file = layouts().join(format!("resources/{}.examples.jsonl", resource.name));
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows = lines.flat_map(|example| match &example["rows"] {
        Value::Array(rows) => rows.clone(),
        _ => vec![example["row"].clone()],
    });
    rows.filter(Value::is_object).collect()
}

/// Indexes of the primary key's columns; none where the table has no key.
fn keys(resource: &Resource, columns: &[Described]) -> Vec<usize> {
    let sql = fs::read_to_string(layouts().join(format!("databases/{}.sql", resource.system))).unwrap();
    let table = sql.split(&format!("CREATE TABLE \"{}\" (", resource.table.name)).nth(1).unwrap().split("\n);").next().unwrap();
    let Some((_, key)) = table.split_once("PRIMARY KEY (") else { return Vec::new() };
    columns.iter().enumerate().filter(|(_, (name, ..))| key.contains(&format!("\"{name}\""))).map(|(at, _)| at).collect()
}

/// What a test takes of a layout.
#[derive(Clone, Copy)]
struct View {
    values: bool,
    comments: bool,
    /// From name and comment.
    rename: fn(&str, Option<&str>) -> String,
}

fn profile(resource: &Resource, view: View) -> TableProfile {
    let (columns, comment) = described(resource.system.as_str(), &resource.table.name);
    let cell = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let to_cell = |text: String| Cell { length: text.chars().count() as u32, text };
    let rows = if view.values { rows(resource) } else { Vec::new() };
    let column = |name: &str, comment: Option<&str>| Column {
        name: (view.rename)(name, comment),
        kind: ColumnType::Text,
        nullable: true,
        default: None,
    };
    let sample = TableSample {
        table: Table {
            name: TableName::new("main", resource.table.name.clone()),
            columns: columns.iter().map(|(name, _, comment)| column(name, comment.as_deref())).collect(),
            key: keys(resource, &columns),
        },
        comment: comment.filter(|_| view.comments),
        columns: columns
            .iter()
            .map(|(_, declared, comment)| SampledColumn {
                comment: comment.clone().filter(|_| view.comments),
                declared: declared.clone(),
            })
            .collect(),
        rows: rows.len() as u64,
        bytes: 0,
        sample: rows.iter().map(|row| columns.iter().map(|(name, ..)| cell(&row[name]).map(to_cell)).collect()).collect(),
    };
    sample.profile(Standard::builtin(), &Clock::at(NOW, Zone::shanghai()), Values::Codes)
}

/// The columns that a mapping reads.
fn columns_of(mapping: &FieldMapping, known: &[String]) -> Vec<String> {
    let named = |text: &str| {
        let within = |column: &&String| text.contains(&format!("row.{column}")) || text.contains(&format!("'{column}'"));
        known.iter().filter(within).cloned().collect::<Vec<_>>()
    };
    let mut columns = match &mapping.value {
        ValueSource::Column(column) => vec![column.clone()],
        ValueSource::First(columns) | ValueSource::Joined { columns, .. } => columns.clone(),
        ValueSource::Cel(text) => named(text),
        ValueSource::Cases(cases) => cases
            .iter()
            .flat_map(|case| [case.when.as_deref().map(named).unwrap_or_default(), columns_of(&case.mapping, known)].concat())
            .collect(),
        ValueSource::Constant(_) | ValueSource::Items(_) => Vec::new(),
    };
    if let Some(UnitSource::Column { column, .. }) = &mapping.unit {
        columns.push(column.clone());
    }
    columns
}

#[derive(Default)]
struct Score {
    mappable: usize,
    right: usize,
    wrong_high: Vec<String>,
    missed: Vec<String>,
}

fn judge(view: View) -> Score {
    let directory = directory();
    let mut score = Score::default();
    for resource in directory.resources.values() {
        let entity = directory.standard.entity(&resource.entity).unwrap();
        let table = profile(resource, view);
        let (columns, _) = described(resource.system.as_str(), &resource.table.name);
        let known: Vec<String> = columns.iter().map(|(name, ..)| name.clone()).collect();
        let renamed = |name: &str| {
            let comment = columns.iter().find(|(column, ..)| column == name).and_then(|(.., comment)| comment.as_deref());
            (view.rename)(name, comment)
        };
        let mut truth: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (field, mapping) in &resource.map {
            for column in columns_of(mapping, &known) {
                truth.entry(renamed(&column)).or_default().insert(field);
            }
        }
        tally(&mut score, resource, &truth, &draft(&table, entity, &directory.standard));
    }
    score
}

fn tally(score: &mut Score, resource: &Resource, truth: &BTreeMap<String, BTreeSet<&str>>, drafted: &Draft) {
    for (column, fields) in truth {
        score.mappable += 1;
        let reads = |line: &&Line| line.column.as_ref() == Some(column) || line.transform.unit_from.as_ref() == Some(column);
        let lines = drafted.lines.iter().filter(reads);
        let found: Vec<&str> = lines.map(|line| line.field.as_str()).collect();
        if found.iter().any(|field| fields.contains(field)) {
            score.right += 1;
        } else {
            score.missed.push(format!("{} {column}: {found:?} for {fields:?}", resource.name));
        }
    }
    for line in drafted.lines.iter().filter(|line| line.grade() == "high") {
        let Some(column) = &line.column else { continue };
        if !truth.get(column).is_some_and(|fields| fields.contains(line.field.as_str())) {
            let wrong = format!("{} {column} -> {} {:.2} {}", resource.name, line.field, line.confidence, line.reason);
            score.wrong_high.push(wrong);
        }
    }
}

/// Prints a score and holds it to the bar.
fn hold(name: &str, score: &Score, bar: f64) {
    let share = score.right as f64 / score.mappable as f64;
    println!("{name}: {} of {} mappable columns right, {:.1} %", score.right, score.mappable, 100.0 * share);
    score.missed.iter().for_each(|missed| println!("  missed {missed}"));
    score.wrong_high.iter().for_each(|wrong| println!("  wrong with high confidence: {wrong}"));
    assert!(share >= bar, "{name}: {share:.3}");
    assert!(score.wrong_high.is_empty(), "{name}: {:?}", score.wrong_high);
}

fn same(name: &str, _: Option<&str>) -> String {
    name.to_owned()
}

#[test]
fn names_alone_are_enough_for_most_columns() {
    hold("names", &judge(View { values: false, comments: false, rename: same }), 0.85);
}

#[test]
fn names_and_values_tell_nearly_all() {
    hold("names and values", &judge(View { values: true, comments: false, rename: same }), 0.9);
}

#[test]
fn names_comments_and_values_tell_nearly_all() {
    hold("names, comments and values", &judge(View { values: true, comments: true, rename: same }), 0.9);
}

#[test]
fn comments_tell_what_names_do_not() {
    fn numbered(name: &str, comment: Option<&str>) -> String {
        let hash = name.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
        comment.map_or_else(|| name.to_owned(), |_| format!("c{hash:08x}"))
    }
    hold("comments and values", &judge(View { values: true, comments: true, rename: numbered }), 0.85);
}

#[test]
fn pinyin_in_full_is_read() {
    fn spelled(name: &str, comment: Option<&str>) -> String {
        let title = comment.unwrap_or(name);
        title.chars().filter_map(|letter| letter.to_pinyin().map(|pinyin| pinyin.plain())).collect()
    }
    hold("full pinyin and values", &judge(View { values: true, comments: false, rename: spelled }), 0.85);
}

#[test]
fn initials_are_read() {
    fn initials(name: &str, comment: Option<&str>) -> String {
        let title = comment.unwrap_or(name);
        let letters = title.chars().filter_map(|letter| letter.to_pinyin().and_then(|pinyin| pinyin.plain().chars().next()));
        format!("F_{}", letters.collect::<String>().to_uppercase())
    }
    hold("initials behind a prefix, and values", &judge(View { values: true, comments: false, rename: initials }), 0.8);
}

#[test]
fn english_names_are_read() {
    /// As a developer of another region would call what the comment says.
    const NAMES: [(&str, &str); 78] = [
        ("姓名", "personName"),
        ("曾用名", "formerName"),
        ("性别", "gender"),
        ("民族", "nation"),
        ("出生日期", "dateOfBirth"),
        ("公民身份号码", "idCardNo"),
        ("婚姻状况", "maritalStatus"),
        ("文化程度", "educationLevel"),
        ("户口所在地行政区划", "householdDivisionCode"),
        ("户口所在地详址", "householdAddress"),
        ("户号", "householdNumber"),
        ("与户主关系", "householderRelation"),
        ("联系电话", "phoneNo"),
        ("死亡日期", "deathDate"),
        ("更新时间", "lastUpdateTime"),
        ("居住地行政区划", "residenceDivisionCode"),
        ("居住地详址", "residenceAddr"),
        ("证件类型", "certType"),
        ("证件号码", "certNumber"),
        ("统一社会信用代码", "creditCode"),
        ("注册号", "registerNo"),
        ("企业名称", "companyName"),
        ("企业类型", "companyType"),
        ("法定代表人姓名", "legalRepresentativeName"),
        ("法定代表人", "legalRepresentative"),
        ("法定代表人证件类型", "legalRepresentativeCertType"),
        ("法定代表人证件号码", "legalRepresentativeCertNo"),
        ("注册资本", "registeredCapital"),
        ("币种", "currencyType"),
        ("成立日期", "establishDate"),
        ("核准日期", "approvalDate"),
        ("经营期限自", "businessTermFrom"),
        ("经营期限至", "businessTermTo"),
        ("登记状态", "registrationStatus"),
        ("登记机关", "registrationAuthority"),
        ("住所", "registeredAddress"),
        ("经营范围", "businessScope"),
        ("行业门类", "industrySection"),
        ("行业代码", "industryCode"),
        ("纳税人识别号", "taxpayerIdNumber"),
        ("纳税人名称", "taxpayerName"),
        ("注册地址", "registeredAddress"),
        ("生产经营地址", "operatingAddress"),
        ("行政区划", "divisionCode"),
        ("项目代码", "projectCode"),
        ("项目名称", "projectName"),
        ("项目类型", "approvalType"),
        ("建设性质", "constructionNature"),
        ("国标行业", "industryCode"),
        ("建设地点", "constructionPlaceCode"),
        ("建设规模及内容", "constructionScaleContent"),
        ("项目单位", "projectOwner"),
        ("申报日期", "applicationDate"),
        ("招标项目编号", "tenderProjectNo"),
        ("公告标题", "noticeTitle"),
        ("公告发布时间", "noticePublishTime"),
        ("中标金额", "winningAmount"),
        ("采购人", "purchaserName"),
        ("代理机构", "agencyName"),
        ("中标供应商", "supplierName"),
        ("公告日期", "noticeDate"),
        ("开标时间", "bidOpeningTime"),
        ("项目编号", "projectNo"),
        ("行政相对人名称", "counterpartName"),
        ("许可内容", "permitContent"),
        ("处罚类别", "penaltyType"),
        ("处罚依据", "penaltyBasis"),
        ("办件编号", "caseNumber"),
        ("查询密码", "queryPwd"),
        ("事项编码", "matterCode"),
        ("事项名称", "matterName"),
        ("办件类型", "handlingType"),
        ("申请人", "applicantName"),
        ("申请人证件类型", "applicantCertType"),
        ("申请人证件号码", "applicantCertNo"),
        ("联系人", "contactPerson"),
        ("收件时间", "receivedTime"),
        ("部门编码", "deptCode"),
    ];
    fn english(name: &str, comment: Option<&str>) -> String {
        let known = NAMES.iter().find(|(title, _)| Some(*title) == comment);
        known.map_or_else(|| name.to_owned(), |(_, english)| (*english).to_owned())
    }
    hold("English in camel case, and values", &judge(View { values: true, comments: false, rename: english }), 0.85);
}

#[test]
fn brackets_and_spaces_in_chinese_names_do_no_harm() {
    fn bracketed(name: &str, comment: Option<&str>) -> String {
        comment.map_or_else(|| name.to_owned(), |title| format!(" {title} （必填）"))
    }
    hold("Chinese names with brackets, and values", &judge(View { values: true, comments: false, rename: bracketed }), 0.85);
}
