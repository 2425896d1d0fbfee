//! What a check found, in three levels.

use std::fmt;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// A silent repair: counted, the record is delivered unmarked.
    Note,
    /// The record is delivered and marked with field and rule; an unreadable optional field is null.
    Warning,
    /// The record goes to quarantine.
    Error,
}

/// One finding. It holds no data of the record, so it may be logged and shown to anyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Finding {
    pub level: Level,
    /// Index of the field in its entity.
    pub field: u16,
    pub rule: Rule,
}

macro_rules! rules {
    ($($name:ident $code:literal $zh:literal $en:literal;)+) => {
        /// Every rule by its stable code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule { $(#[doc = $en] $name,)+ }

        impl Rule {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Stable code, `uscc.check_digit`: in headers, metrics and quarantine.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// What is wrong, in Chinese.
            #[must_use]
            pub fn zh(self) -> &'static str {
                match self { $(Self::$name => $zh,)+ }
            }

            /// What is wrong, in English.
            #[must_use]
            pub fn en(self) -> &'static str {
                match self { $(Self::$name => $en,)+ }
            }
        }
    };
}

rules! {
    FieldMissing "field.missing" "必填项为空" "a mandatory field is empty";
    FieldNotProvided "field.not_provided" "来源系统不提供此必填项" "the source does not have this mandatory field";
    FieldRequired "field.required" "按条件应填而为空" "a field that this record requires is empty";
    ColumnAbsent "column.absent" "来源未发送该列且没有已知的值" "the source left the column out and its value is not known";
    ColumnGone "column.gone" "来源表没有该列" "the source's table does not have the column";
    ColumnRetyped "column.retyped" "来源列的类型已改变" "the source's column has another type than before";
    ColumnLossy "column.lossy" "来源值超出其传输类型的表示范围" "the source's value is beyond what its type on the wire holds";
    ColumnUnreadable "column.unreadable" "来源值无法按该列的类型读取（例如不是 UTF-8 编码），原字节随事件保留" "the source's value does not read as its column's type, such as text that is not UTF-8; its bytes are kept with the event";
    ExpressionFailed "mapping.expression" "映射表达式没有得出值" "the mapping's expression gave no value";
    LookupMissing "lookup.missing" "对照表中没有该值" "the lookup table does not have this value";
    TooManyRows "join.too_many_rows" "属于该记录的关联行超过 5000 行或 4 MiB" "more joined rows belong to this record than the 5,000 rows or 4 MiB that one is made of";
    ExpressionStopped "mapping.expression_stopped" "映射表达式所需步骤或文字过多，已中止" "the mapping's expression was stopped: it took too many steps or too long a text";
    ValueExtracted "mapping.extracted" "取自较长文字的一部分" "taken out of a longer text";
    ExtractFailed "mapping.no_match" "文字不是映射所述的格式" "the text is not of the form that the mapping describes";
    AmountUnit "number.unit" "单位不是元、万元或亿元" "the unit is none of yuan, 10,000 yuan and 100 million yuan";
    ConditionFailed "row.condition" "映射的行条件没有得出真假" "the mapping's condition on rows is neither true nor false";
    ListsDiffer "row.parallel_lists" "一行多条记录的各并列项个数不同" "the parallel lists of one row differ in length";
    KeyShared "key.shared" "同一主键有多行数据，以最新者为准" "several rows have this key, the newest is taken";

    TextTooLong "text.too_long" "超过规定长度" "longer than the field allows";
    TextControl "text.control" "含控制字符" "a control character";
    TextInvisible "text.invisible" "含不可见或改变书写方向的字符" "an invisible or direction-changing character";
    TextPrivateUse "text.private_use" "含自造字（私用区字符）" "a private-use character";
    TextDamaged "text.damaged" "文字已损坏（乱码）" "text that an earlier conversion damaged";
    TextRepaired "text.repaired" "已统一全半角、括号、间隔号或字形" "width, brackets, middle dots or glyph variants made uniform";
    TextSpaces "text.spaces" "已整理空白" "spaces trimmed or joined";
    NameInnerSpace "name.inner_space" "姓名中间有空格" "a space inside a Chinese name";
    NameShort "name.short" "姓名不足两个字" "a name of fewer than two characters";

    IdentifierSeparator "identifier.separator" "已去掉分隔符" "separators removed";
    IdentifierRepaired "identifier.repaired" "已统一全半角、大小写和首尾空白" "width, case and outer spaces made uniform";

    UsccLength "uscc.length" "统一社会信用代码不是 18 位" "a credit code has 18 characters";
    UsccAlphabet "uscc.alphabet" "统一社会信用代码含不允许的字符" "a character outside the credit code's alphabet";
    UsccCheckDigit "uscc.check_digit" "统一社会信用代码校验码不符" "the credit code's check character is wrong";
    UsccDepartment "uscc.department" "登记管理部门代码不存在" "the credit code's registering department does not exist";
    UsccCategory "uscc.category" "机构类别不在代码表内或有争议" "the credit code's category is not in the table, or disputed";
    UsccDivision "uscc.division" "登记机关区划不在 GB/T 2260 内" "the credit code's division is not in GB/T 2260";
    UsccOrganisation "uscc.organisation" "第 9 至 17 位不符合 GB 11714" "characters 9 to 17 of the credit code fail GB 11714";

    OrgCodeForm "org_code.form" "组织机构代码不是 8 位加校验码" "an organisation code is 8 characters and a check character";
    OrgCodeCheckDigit "org_code.check_digit" "组织机构代码校验码不符" "the organisation code's check character is wrong";

    CitizenForm "citizen_id.form" "公民身份号码不是 18 位（或旧 15 位）" "a citizen number has 18 characters (15 of old)";
    CitizenCheckDigit "citizen_id.check_digit" "公民身份号码校验码不符" "the citizen number's check digit is wrong";
    CitizenDivision "citizen_id.division" "公民身份号码的区划不存在" "the citizen number's division never existed";
    CitizenBirth "citizen_id.birth_date" "公民身份号码中的出生日期不存在或不合理" "the birth date in the citizen number does not exist or is not plausible";
    CitizenFuture "citizen_id.in_future" "公民身份号码中的出生日期在将来" "the birth date in the citizen number is in the future";
    CitizenSeparator "citizen_id.separator" "公民身份号码中有分隔符，已去掉" "separators in the citizen number, removed";
    CitizenBeforeDivision "citizen_id.before_division" "出生早于区划代码设立" "born before the division's code existed";
    CitizenAfterDivision "citizen_id.after_division" "出生晚于区划代码撤销" "born after the division's code was retired";
    CitizenConverted "citizen_id.converted" "15 位号码已转为 18 位" "15-digit number turned into 18 digits";
    CitizenOrCredit "citizen_id.or_credit_code" "同时符合身份号码和信用代码，按身份号码处理" "passes both as citizen number and as credit code; read as a citizen number";

    MobileForm "mobile.form" "不是 11 位手机号码" "not a mobile number of 11 digits";
    MobileCountry "mobile.country_code" "已去掉国家代码" "country code removed";
    PhoneForm "phone.form" "不是电话号码" "not a telephone number";
    CardForm "card.form" "银行卡号不是 16 至 19 位数字" "a bank card number has 16 to 19 digits";
    CardCheckDigit "card.check_digit" "银行卡号校验位不符" "the bank card's check digit is wrong";
    RegistrationForm "registration_no.form" "注册号不是 15 位数字" "a registration number has 15 digits";
    RegistrationCheckDigit "registration_no.check_digit" "注册号校验码不符" "the registration number's check digit is wrong";
    RegistrationOld "registration_no.unchecked" "旧注册号，未校验" "a registration number of an older layout, not checked";
    RegistrationCitizen "registration_no.citizen_id" "注册号栏填的是公民身份号码" "a citizen number in the place of a registration number";
    ProjectForm "project_code.form" "项目代码格式不符" "not of a project code's layout";
    ProjectDivision "project_code.division" "项目代码的区划不存在" "the project code's division does not exist";
    ProjectRepaired "project_code.hyphens" "已补连字符" "hyphens restored";

    DivisionForm "division.form" "不是行政区划代码" "not a division code";
    DivisionUnknown "division.unknown" "行政区划代码不存在" "the division does not exist";
    DivisionShortened "division.shortened" "已截取或补足为 6 位" "cut or padded to 6 digits";
    DivisionRetired "division.retired" "已撤销的区划已换为现行代码" "a retired division replaced by its successor";
    DivisionNoSuccessor "division.no_successor" "已撤销且无唯一后继，按原代码保留" "a retired division without one successor, kept";

    IndustryForm "industry.form" "不是国民经济行业代码" "not an industry code";
    IndustryUnknown "industry.unknown" "行业大类不存在" "the industry division does not exist";
    IndustrySection "industry.section" "已去掉门类字母" "section letter dropped";
    IndustryConverted "industry.converted" "已由 2011 版转为 2017 版" "turned from the 2011 edition into that of 2017";

    CodeUnknown "code.unknown" "不在代码表内" "not in the code list";
    CodeByName "code.by_name" "由名称查得代码" "code found by its name";
    CodePadded "code.padded" "已补前导零" "leading zero restored";
    CodeConverted "code.converted" "已由旧版代码转换" "turned from an older edition";
    CodeRetired "code.retired" "已停用的代码已换为现行代码" "a retired code replaced by its successor";
    CodeTooEarly "code.too_early" "代码在该日期尚未启用，按原代码保留" "a code that was not in force yet, kept";
    CodeNoSuccessor "code.no_successor" "代码已停用且无后继，按原代码保留" "a retired code without a successor, kept";
    CodeEstimated "code.estimated" "旧版代码无对应项，取最接近者" "the older edition's code has no counterpart; the nearest is taken";

    DateForm "date.form" "不是可识别的日期" "not a date of a known form";
    DateMissingDay "date.no_such_day" "日期不存在" "the date does not exist";
    DateInFuture "date.in_future" "日期在将来" "the date is in the future";
    DateTooEarly "date.too_early" "日期过早，不合理" "the date is too early to be plausible";
    DateOpenEnd "date.open_end" "此项不可为长期" "this field has no open end";
    DateWeekday "date.weekday" "星期与日期不符" "the weekday contradicts the date";
    DateFromTime "date.from_time" "由时间取得日期" "the date of a time";
    TimeForm "time.form" "不是可识别的时间" "not a time of a known form";
    TimeRange "time.range" "时分秒或时区超出范围" "hour, minute, second or offset out of range";
    TimeZoneAssumed "time.zone_assumed" "未注明时区，按本地时间" "no zone given, taken as local time";
    TimeMinutes "time.minutes" "时间只到分钟" "the time stops at minutes";

    NumberForm "number.form" "不是数字" "not a number";
    NumberRange "number.range" "数值超出范围" "the number is out of range";
    NumberRounded "number.rounded" "小数位已舍入" "rounded to the field's decimal places";
    NumberRepaired "number.repaired" "已整理千分位、单位或大写金额" "thousands separators, units or Chinese capitals read";
    UrlForm "url.form" "不是 http(s) 网址" "not an http(s) address";
    StepsForm "steps.form" "环节不是可识别的列表" "the steps are not a readable list";

    OrderReversed "order.reversed" "先后或大小关系不符" "the order of two fields is reversed";
    StepsOrder "steps.order" "环节时间不是递增" "the steps' times go backwards";
    CitizenDocument "citizen_id.document" "证件号码与公民身份号码不一致" "document number and citizen number differ";
    CitizenBirthDiffers "citizen_id.birth_differs" "出生日期与公民身份号码不一致" "the birth date differs from the citizen number";
    CitizenSexDiffers "citizen_id.sex_differs" "性别与公民身份号码不一致" "the sex differs from the citizen number";
    CitizenNationality "citizen_id.nationality" "持居民身份证而国籍不是中国" "a resident identity card with another nationality";
    MarriageAge "marital.age" "未达法定婚龄" "married below the legal age";
    DoctorAge "education.age" "年龄与博士学历不符" "too young for a doctor's degree";
    EntityTypeDiffers "entity_type.differs" "机构类型与统一社会信用代码不一致，以代码为准" "the entity type differs from the credit code, which is taken";
    OrganisationDiffers "org_code.differs" "组织机构代码与统一社会信用代码不一致" "the organisation code differs from the credit code";
    CreditDivisionDiffers "division.credit_code_differs" "区划与统一社会信用代码不一致" "the division differs from the credit code";
    ProjectDivisionDiffers "division.project_code_differs" "建设地点与项目代码区划不一致" "the division differs from the project code";
    ProjectTypeDiffers "approval_type.differs" "项目类型与项目代码不一致" "the approval type differs from the project code";
    ProjectIndustryDiffers "industry.differs" "行业与项目代码不一致" "the industry differs from the project code";
    AmountNotPositive "amount.not_positive" "金额应大于零" "the amount should be above zero";
    PersonDocument "document.person" "号码是公民身份号码，按自然人处理" "the number is a citizen number, so this is taken for a person";
    ValueFilled "field.filled" "已按规则填入" "filled in by rule";
}

impl Rule {
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.code() == code)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Where the checks of one field write what they find.
pub(crate) struct Remarks<'f> {
    pub(crate) field: u16,
    pub(crate) findings: &'f mut Vec<Finding>,
}

impl Remarks<'_> {
    pub(crate) fn note(&mut self, rule: Rule) {
        self.push(Level::Note, rule);
    }

    pub(crate) fn warn(&mut self, rule: Rule) {
        self.push(Level::Warning, rule);
    }

    pub(crate) fn push(&mut self, level: Level, rule: Rule) {
        self.findings.push(Finding { level, field: self.field, rule });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_stable_and_distinct() {
        let codes: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
        assert_eq!(codes.len(), Rule::ALL.len());
        for rule in Rule::ALL {
            assert_eq!(Rule::from_code(rule.code()), Some(*rule));
            let (group, name) = rule.code().split_once('.').expect("group.name");
            assert!([group, name].iter().all(|part| part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')), "{rule}");
            assert!(!rule.zh().is_empty() && rule.en().is_ascii());
        }
    }
}
