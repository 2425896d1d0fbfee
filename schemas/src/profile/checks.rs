//! What a sampled value is tried against: the checks and code lists of the standard, and what names and addresses look like.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::TIME_OF_DAY;
use crate::standard::{
    Clock, CodeList, EntityField, FieldKind, FieldOptions, Finding, Level, OPEN_END, Standard, StandardValue, is_han,
};

/// Longest text that is tried: what is longer is running text.
const LONGEST: usize = 64;
/// Longest code or name of a code, in characters.
const LONGEST_CODE: usize = 30;

/// Date formats that are read only where they are declared, and so are tried one by one.
const FORMATS: [&str; 13] = [
    "excel",
    "epoch_s",
    "epoch_ms",
    "yy-M-d",
    "yy/M/d",
    "yy.M.d",
    "yy-M-d H:mm",
    "yy-M-d H:mm:ss",
    "yy/M/d H:mm",
    "yy/M/d H:mm:ss",
    "M/d/yyyy",
    "M/d/yyyy H:mm",
    "yyyyMMdd HH:mm:ss",
];

/// Spreadsheet serials of 1954 to 2064; other numbers of five digits are numbers.
const SERIALS: std::ops::Range<u32> = 20_000..60_000;

/// The commonest surnames, with which nine names of ten are told from other short texts, and 测, with which made-up persons' names begin.
const SURNAMES: &str = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜\
                        崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤测农蓝\
                        苏植甘玉班凌滕磨岑韦银蒙欧施洪翁庞颜梅殷詹申倪耿牛柳关焦鲁齐温季阮冼伍池乔赖文俞樊童麦邢柏冉翟蔚";
/// Two-character surnames.
const DOUBLE_SURNAMES: [&str; 9] = ["欧阳", "上官", "司马", "诸葛", "司徒", "皇甫", "慕容", "令狐", "东方"];

const ADDRESS_MARKS: [char; 18] =
    ['省', '市', '区', '县', '镇', '乡', '村', '屯', '街', '路', '道', '巷', '弄', '号', '栋', '幢', '楼', '室'];

const ORGANISATION_ENDS: [&str; 29] = [
    "公司",
    "集团",
    "厂",
    "局",
    "厅",
    "委员会",
    "委",
    "中心",
    "医院",
    "学校",
    "大学",
    "合作社",
    "商店",
    "店",
    "事务所",
    "研究院",
    "设计院",
    "研究所",
    "银行",
    "部",
    "院",
    "处",
    "会",
    "政府",
    "办公室",
    "站",
    "队",
    "经营部",
    "工作室",
];

/// Everything a value is tried against.
pub(super) struct Checks {
    /// Name of the check, the field that reads for it, and what a mapping would declare.
    fields: Vec<(String, EntityField, FieldOptions)>,
    formats: Vec<(String, EntityField, FieldOptions)>,
    open_end: Option<(EntityField, FieldOptions)>,
    time: EntityField,
    lists: BTreeMap<String, Arc<CodeList>>,
}

/// A value that stands in a code list.
pub(super) struct InList {
    pub(super) by_name: bool,
}

impl Checks {
    pub(super) fn of(standard: &Standard) -> Self {
        let kinds = [
            ("uscc", FieldKind::Uscc),
            ("org_code", FieldKind::OrgCode),
            ("citizen_id", FieldKind::CitizenId),
            ("registration_no", FieldKind::BusinessRegistration),
            ("mobile", FieldKind::Mobile),
            ("phone", FieldKind::Phone { max: 64 }),
            ("bank_card", FieldKind::BankCard),
            ("project_code", FieldKind::ProjectCode),
            ("division", FieldKind::Division),
            ("industry", FieldKind::Industry),
            ("date", FieldKind::Date),
            ("time", FieldKind::Time),
            ("partial_date", FieldKind::PartialDate),
            ("decimal", FieldKind::Decimal { precision: 24, scale: 6 }),
            ("integer", FieldKind::Int),
            ("url", FieldKind::Url),
        ];
        let plain = |(name, kind): (&str, FieldKind)| (name.to_owned(), standard.field_alone(kind), FieldOptions::default());
        let declared = |format: &&str| {
            let options = FieldOptions::of_format(format).ok()?;
            Some((format!("date:{format}"), standard.field_alone(FieldKind::Time), options))
        };
        let mut fields: Vec<_> = kinds.into_iter().map(plain).collect();
        fields.push(("industry:2011".to_owned(), standard.field_alone(FieldKind::Industry), FieldOptions::old_edition()));
        fields.push(("education:1984".to_owned(), standard.field_alone(FieldKind::Education), FieldOptions::old_edition()));
        let lists = standard.entities().flat_map(|entity| &entity.fields).filter_map(EntityField::code_list);
        Self {
            fields,
            formats: FORMATS.iter().filter_map(declared).collect(),
            time: standard.field_alone(FieldKind::Time),
            open_end: Some((standard.field_alone(FieldKind::Date), FieldOptions::open_end())),
            lists: lists.map(|list| (list.name.clone(), Arc::new(list.clone()))).collect(),
        }
    }

    /// Names of the checks that a value passes.
    pub(super) fn passed(&self, text: &str, clock: &Clock<'_>) -> Vec<String> {
        let mut passed = looks(text);
        if text.len() > LONGEST {
            return passed;
        }
        passed.extend(
            self.fields.iter().filter(|(_, field, options)| reads(field, options, text, clock)).map(|(name, ..)| name.clone()),
        );
        let is_date = passed.iter().any(|check| check == "date" || check == "time");
        let is_small = text.len() <= 5 && !text.parse().is_ok_and(|number| SERIALS.contains(&number));
        if !is_date && !is_small {
            let plausible = |name: &str| match name {
                "date:epoch_s" => (9..=10).contains(&text.len()),
                "date:epoch_ms" => (12..=13).contains(&text.len()),
                _ => true,
            };
            let formats = self.formats.iter().filter(|(name, ..)| plausible(name));
            let formats = formats.filter(|(_, field, options)| reads(field, options, text, clock));
            passed.extend(formats.map(|(name, ..)| name.clone()));
        }
        if self.has_time_of_day(text, clock) {
            passed.push(TIME_OF_DAY.to_owned());
        }
        if let Some((field, options)) = &self.open_end
            && field.read(text, options, clock, &mut Vec::new()) == StandardValue::Date(OPEN_END)
        {
            passed.push("open_end".to_owned());
        }
        passed
    }

    /// Whether a value is a time, and not the beginning of a day.
    fn has_time_of_day(&self, text: &str, clock: &Clock<'_>) -> bool {
        match self.time.read(text, &FieldOptions::default(), clock, &mut Vec::new()) {
            StandardValue::Time(instant) => !clock.zone.is_midnight(instant),
            _ => false,
        }
    }

    /// The lists that a value is in.
    pub(super) fn lists(&self, text: &str) -> Vec<(String, InList)> {
        let text = text.trim();
        if text.chars().count() > LONGEST_CODE {
            return Vec::new();
        }
        let upper = text.to_ascii_uppercase();
        self.lists
            .iter()
            .filter_map(|(name, list)| {
                let by_name = list.is_name(text).or_else(|| list.is_name(&upper))?;
                Some((name.clone(), InList { by_name }))
            })
            .collect()
    }
}

/// Whether the field takes the value: as something, and without an error or a warning that makes it nothing.
fn reads(field: &EntityField, options: &FieldOptions, text: &str, clock: &Clock<'_>) -> bool {
    let mut findings: Vec<Finding> = Vec::new();
    let value = field.read(text, options, clock, &mut findings);
    !value.is_null() && findings.iter().all(|finding| finding.level < Level::Error)
}

/// What a text looks like that no check can tell.
fn looks(text: &str) -> Vec<String> {
    let length = text.chars().count();
    let han = text.chars().filter(|letter| is_han(*letter)).count();
    let mut looks = Vec::new();
    let dotted = text.contains('·') && (4..=20).contains(&length);
    let surname = text.chars().next().is_some_and(|first| SURNAMES.contains(first));
    let double = length >= 3 && DOUBLE_SURNAMES.iter().any(|surname| text.starts_with(surname));
    if (han == length && (2..=4).contains(&length) && (surname && length <= 3 || double)) || dotted && han + 1 >= length {
        looks.push("person_name".to_owned());
    }
    let marks = text.chars().filter(|letter| ADDRESS_MARKS.contains(letter)).count();
    if length >= 6 && marks >= 2 && han * 2 >= length && !is_organisation(text) {
        looks.push("address".to_owned());
    }
    if length >= 3 && han * 2 >= length && is_organisation(text) {
        looks.push("organisation_name".to_owned());
    }
    looks
}

fn is_organisation(text: &str) -> bool {
    text.contains("公司") || ORGANISATION_ENDS.iter().any(|end| text.ends_with(end))
}
