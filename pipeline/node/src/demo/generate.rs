//! Rows of five departments, the same for the same number: each row is a function of its number, so that a second run and the
//! counters can name any of them again.

use serde_json::{Value, json};

use super::codes;

/// A table of a department's database, with the columns that rows are made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) system: &'static str,
    pub(super) name: &'static str,
    pub(super) columns: &'static [&'static str],
    pub(super) row: fn(u32) -> Vec<Value>,
    /// Rows before the counters open.
    pub(super) rows: u32,
}

const DIVISIONS: [(&str, &str); 16] = [
    ("450102", "南宁市兴宁区"),
    ("450103", "南宁市青秀区"),
    ("450105", "南宁市江南区"),
    ("450107", "南宁市西乡塘区"),
    ("450108", "南宁市良庆区"),
    ("450202", "柳州市城中区"),
    ("450203", "柳州市鱼峰区"),
    ("450302", "桂林市秀峰区"),
    ("450304", "桂林市象山区"),
    ("450403", "梧州市万秀区"),
    ("450502", "北海市海城区"),
    ("450602", "防城港市港口区"),
    ("450702", "钦州市钦南区"),
    ("450802", "贵港市港北区"),
    ("450902", "玉林市玉州区"),
    ("451002", "百色市右江区"),
];
const SURNAMES: [&str; 12] = ["韦", "黄", "覃", "陆", "莫", "农", "蒙", "欧阳", "罗", "梁", "蓝", "卢"];
const GIVEN: [&str; 12] = ["小明", "丽", "建国", "芳", "海燕", "志强", "秀英", "伟", "春梅", "文", "家豪", "玉兰"];
const WORDS: [&str; 12] = ["桂", "邕", "恒", "达", "瑞", "丰", "鑫", "源", "盛", "泰", "华", "安"];
const TRADES: [(&str, &str); 6] =
    [("5211", "商贸"), ("6510", "软件"), ("4700", "建筑"), ("6210", "餐饮"), ("5430", "物流"), ("0111", "农业")];

/// One of `choices`, picked by a number that is spread so that neighbours differ.
fn pick<T: Copy, const N: usize>(choices: [T; N], number: u32, salt: u32) -> T {
    choices[spread(number, salt) as usize % N]
}

fn spread(number: u32, salt: u32) -> u32 {
    let mixed = (u64::from(number) << 32 | u64::from(salt)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9).wrapping_shr(32) as u32
}

pub(super) fn person(number: u32) -> String {
    format!("{}{}", pick(SURNAMES, number, 1), pick(GIVEN, number, 2))
}

fn company(number: u32) -> String {
    let (_, place) = pick(DIVISIONS, number, 3);
    let (_, trade) = pick(TRADES, number, 4);
    format!("{}{}{}{trade}{number}号有限公司", place.get(..9).unwrap_or(place), pick(WORDS, number, 5), pick(WORDS, number, 6))
}

/// Credit code of the company with this number.
pub(super) fn company_code(number: u32) -> String {
    codes::credit_code(pick(DIVISIONS, number, 3).0, number)
}

fn day(number: u32, salt: u32, first_year: u32, years: u32) -> (u32, u32, u32) {
    let random = spread(number, salt);
    (first_year + random % years, 1 + random / 64 % 12, 1 + random / 1024 % 28)
}

fn date(number: u32, salt: u32, first_year: u32, years: u32, separator: &str) -> String {
    let (year, month, day) = day(number, salt, first_year, years);
    format!("{year}{separator}{month:02}{separator}{day:02}")
}

fn office(number: u32) -> (String, String) {
    let (division, place) = pick(DIVISIONS, number, 3);
    (format!("{place}市场监督管理局"), codes::credit_code(division, 90_000 + spread(0, division.len() as u32) % 100))
}

fn enterprise(number: u32) -> Vec<Value> {
    let (division, place) = pick(DIVISIONS, number, 3);
    let (industry, trade) = pick(TRADES, number, 4);
    let (authority, authority_code) = office(number);
    // Old systems write the code in small letters, or with spaces behind it; both are repaired silently.
    let code = match number % 50 {
        7 => company_code(number).to_lowercase(),
        9 => format!("{}  ", company_code(number)),
        _ => company_code(number),
    };
    vec![
        json!(number),
        json!(code),
        json!(company(number)),
        json!("173"),
        json!(industry),
        json!(person(number)),
        json!("身份证"),
        json!(codes::citizen_number(division, &date(number, 8, 1960, 40, ""), number)),
        json!(f64::from(10 + spread(number, 9) % 5000) + if number.is_multiple_of(3) { 0.5 } else { 0.0 }),
        json!("CNY"),
        json!(date(number, 10, 2001, 24, "")),
        json!(date(number, 11, 2025, 1, "-")),
        if number.is_multiple_of(4) { json!("长期") } else { json!(date(number, 12, 2030, 20, "-")) },
        json!(pick(["存续", "存续", "在营", "存续", "存续", "经营异常", "吊销", "注销"], number, 13)),
        json!(authority),
        json!(authority_code),
        json!(format!("{place}民族大道{}号", 1 + spread(number, 14) % 200)),
        json!(division),
        json!(format!("{trade}及相关服务")),
        json!(1 + spread(number, 15) % 300),
        json!(person(number + 1)),
        json!(codes::mobile(number)),
    ]
}

fn project_code(number: u32) -> String {
    let (year, month, _) = day(number, 20, 2021, 5);
    format!("{:02}{month:02}-{}-04-01-{number:06}", year % 100, pick(DIVISIONS, number, 3).0)
}

fn project(number: u32) -> Vec<Value> {
    let (division, place) = pick(DIVISIONS, number, 3);
    let owner = 1 + spread(number, 21) % 15_000;
    let total = 100 + spread(number, 22) % 90_000;
    vec![
        json!(format!("DEAL{number:08}")),
        json!(project_code(number)),
        json!(format!("{place}{}改造提升工程{number}期", pick(WORDS, number, 23))),
        json!(pick(["A00001", "A00002", "A00003"], number, 24)),
        json!(pick(["新建", "扩建", "改建", "迁建", "技改"], number, 25)),
        json!(pick(TRADES, number, 26).0),
        json!(format!("{division}000000")),
        json!(format!("{place}开发区{}路", pick(WORDS, number, 27))),
        json!(format!("建筑面积{}平方米", 500 + spread(number, 28) % 90_000)),
        json!(total),
        json!(total / 4),
        json!(company(owner)),
        json!(company_code(owner)),
        json!(person(owner)),
        json!(person(owner + 2)),
        json!(codes::mobile(owner)),
        json!(date(number, 29, 2022, 3, "-").get(..7)),
        json!(date(number, 30, 2026, 4, "-").get(..7)),
        json!(format!("{}T08:30:00+08:00", date(number, 31, 2021, 5, "-"))),
        json!(pick(["申报", "受理", "批复", "开工", "竣工", "终止"], number, 32)),
        json!(number % 2),
    ]
}

fn deal(number: u32) -> Vec<Value> {
    let (division, place) = pick(DIVISIONS, number, 3);
    let owner = 1 + spread(number, 40) % 15_000;
    let winner = 1 + spread(number, 41) % 15_000;
    let works = !number.is_multiple_of(3);
    let natural = number.is_multiple_of(11);
    let birth = date(number, 42, 1960, 40, "");
    vec![
        json!(number),
        json!(format!("UDC{number:010}")),
        json!(if works { "工程建设" } else { "政府采购" }),
        if works { json!(project_code(1 + spread(number, 43) % 8_000)) } else { Value::Null },
        json!(format!("XM{number:08}")),
        json!(format!("ZB{number:08}")),
        json!(format!("{:02}", 1 + number % 4)),
        json!(format!("{place}{}项目中标结果公告（{number}）", pick(WORDS, number, 44))),
        json!(format!("{}0900{:02}", date(number, 45, 2024, 1, ""), number % 60)),
        json!(format!("{}093000", date(number, 46, 2025, 1, ""))),
        json!(company(owner)),
        json!(company_code(owner)),
        json!(if natural { person(winner) } else { company(winner) }),
        json!(if natural { "自然人" } else { "法人" }),
        json!(if natural { codes::citizen_number(division, &birth, number) } else { company_code(winner) }),
        json!("1"),
        json!(10_000 * u64::from(1 + spread(number, 47) % 90_000)),
        json!("156"),
        json!("A45000000000000001"),
        json!("A45000000000000002"),
        json!(format!("https://trading.example/notice/{number}")),
        json!(format!("{}120000", date(number, 48, 2026, 1, "").replace("2026", "2025"))),
    ]
}

fn licence(number: u32) -> Vec<Value> {
    let holder = 1 + spread(number, 60) % 15_000;
    let (authority, authority_code) = office(number);
    vec![
        json!(number),
        json!(company(holder)),
        json!("法人及非法人组织"),
        json!(company_code(holder)),
        json!(person(holder)),
        json!("准予行政许可决定书"),
        json!(format!("桂许可〔2025〕{number}号")),
        json!(pick(["普通", "特许", "核准", "登记"], number, 61)),
        json!("食品经营许可证"),
        json!(format!("JY145{number:08}")),
        json!("准予从事食品经营"),
        json!(date(number, 62, 2024, 1, "/")),
        json!(date(number, 63, 2025, 1, "/")),
        if number.is_multiple_of(5) { json!("2099/12/31") } else { json!(date(number, 64, 2028, 3, "/")) },
        json!(authority),
        json!(authority_code),
        json!(pick(["1", "1", "1", "2"], number, 65)),
        json!(authority),
        json!(authority_code),
    ]
}

fn penalty(number: u32) -> Vec<Value> {
    let subject = 1 + spread(number, 70) % 15_000;
    let (authority, authority_code) = office(number);
    let (year, month, day) = day(number, 71, 2024, 2);
    let fined = !number.is_multiple_of(4);
    vec![
        json!(number),
        json!(format!("桂市监罚〔2025〕{number}号")),
        json!("违反食品安全管理规定"),
        json!("经营标签不符合规定的预包装食品"),
        json!("食品安全管理条例"),
        json!(if fined { "警告;罚款" } else { "警告" }),
        json!(if fined { "警告，并处罚款" } else { "警告" }),
        if fined { json!(format!("{}", 1000 * (1 + spread(number, 72) % 300))) } else { Value::Null },
        json!(company(subject)),
        json!("法人及非法人组织"),
        json!(company_code(subject)),
        json!(person(subject)),
        json!(format!("{year}年{month}月{day}日")),
        json!(date(number, 73, 2027, 2, "-")),
        json!(authority),
        json!(authority_code),
        json!(authority),
        json!(authority_code),
    ]
}

fn case(number: u32) -> Vec<Value> {
    let (division, place) = pick(DIVISIONS, number, 3);
    let applicant = 1 + spread(number, 80) % 15_000;
    let natural = number % 3 == 1;
    let finished = !number.is_multiple_of(4);
    let received = date(number, 81, 2024, 1, "-");
    let done = date(number, 82, 2025, 1, "-");
    let id = codes::citizen_number(division, &date(number, 83, 1960, 40, ""), number);
    vec![
        json!(format!("BJ45{number:010}")),
        json!(format!("450000{:07}", spread(number, 84) % 400)),
        json!(format!("4500001145{:021}", spread(number, 84) % 400)),
        json!(pick(["企业开办", "食品经营许可", "施工许可证核发", "社会保险登记"], number, 85)),
        json!(pick(["行政许可", "公共服务", "行政确认"], number, 86)),
        json!(pick(["即办件", "承诺件"], number, 87)),
        json!(division),
        json!(format!("{place}行政审批局")),
        json!(office(number).1),
        json!(if natural { "自然人" } else { "法人" }),
        json!(if natural { person(applicant) } else { company(applicant) }),
        json!(if natural { "身份证" } else { "统一社会信用代码" }),
        json!(if natural { id } else { company_code(applicant) }),
        json!(codes::mobile(applicant)),
        json!(pick(["网上", "窗口", "自助", "移动"], number, 88)),
        Value::Null,
        json!(format!("{received} 08:30:{:02}", number % 60)),
        json!(format!("{received} 15:00:{:02}", number % 60)),
        json!(1 + number % 20),
        if finished { json!(format!("{done} 10:20:{:02}", number % 60)) } else { Value::Null },
        if finished { json!("准予") } else { Value::Null },
        if finished { json!(format!("JG{number:08}")) } else { Value::Null },
        if finished { json!(1 + number % 5) } else { Value::Null },
        json!(if finished { "办结" } else { "办理" }),
    ]
}

pub(super) const ENTERPRISE: Table = Table {
    system: "registration",
    name: "qy_jbxx",
    columns: &[
        "qybh", "tyshxydm", "qymc", "jjlx", "hydm", "fddbr", "frzjlx", "frzjhm", "zczb", "bz", "clrq", "hzrq", "yyqxz", "djzt",
        "djjg", "djjgdm", "zs", "xzqh", "jyfw", "ryrs", "lxr", "lxdh",
    ],
    row: enterprise,
    rows: 20_000,
};
pub(super) const PROJECT: Table = Table {
    system: "projects",
    name: "project_info",
    columns: &[
        "deal_code",
        "project_code",
        "apply_project_name",
        "project_type",
        "project_nature",
        "the_industry",
        "place_code",
        "place_code_detail",
        "scale_content",
        "total_money",
        "capital_money",
        "enterprise_name",
        "enterprise_code",
        "lerep_name",
        "contact_name",
        "contact_phone",
        "start_month",
        "end_month",
        "apply_date",
        "state",
        "is_foreign",
    ],
    row: project,
    rows: 8_000,
};
pub(super) const DEAL: Table = Table {
    system: "trading",
    name: "GCJS_ZBJG",
    columns: &[
        "ID",
        "UNIFIED_DEAL_CODE",
        "SECTOR",
        "INVEST_PROJECT_CODE",
        "PROJECT_CODE",
        "TENDER_PROJECT_CODE",
        "BID_SECTION_CODE",
        "NOTICE_NAME",
        "NOTICE_SEND_TIME",
        "OPEN_TIME",
        "TENDERER_NAME",
        "TENDERER_CODE",
        "WIN_BIDDER_NAME",
        "BIDDER_CODE_TYPE",
        "WIN_BIDDER_CODE",
        "BIDDER_ROLE",
        "BID_AMOUNT",
        "CURRENCY_CODE",
        "PLATFORM_CODE",
        "PUB_SERVICE_PLAT_CODE",
        "URL",
        "DATA_TIMESTAMP",
    ],
    row: deal,
    rows: 8_000,
};
pub(super) const LICENCE: Table = Table {
    system: "credit",
    name: "行政许可",
    columns: &[
        "XK_ID",
        "XK_XDR_MC",
        "XK_XDR_LB",
        "XK_XDR_SHXYM",
        "XK_FRDB",
        "XK_XKWS",
        "XK_WSH",
        "XK_XKLB",
        "XK_XKZS",
        "XK_XKBH",
        "XK_NR",
        "XK_JDRQ",
        "XK_YXQZ",
        "XK_YXQZI",
        "XK_XKJG",
        "XK_XKJGDM",
        "XK_ZT",
        "XK_LYDW",
        "XK_LYDWDM",
    ],
    row: licence,
    rows: 9_000,
};
pub(super) const PENALTY: Table = Table {
    system: "credit",
    name: "行政处罚",
    columns: &[
        "序号",
        "决定书文号",
        "违法行为类型",
        "违法事实",
        "处罚依据",
        "处罚类别",
        "处罚内容",
        "罚款金额",
        "行政相对人名称",
        "相对人类别",
        "统一社会信用代码",
        "法定代表人",
        "处罚决定日期",
        "公示截止期",
        "处罚机关",
        "处罚机关代码",
        "数据来源单位",
        "数据来源单位代码",
    ],
    row: penalty,
    rows: 3_000,
};
pub(super) const CASE: Table = Table {
    system: "hall",
    name: "办件",
    columns: &[
        "流水号",
        "基本编码",
        "实施编码",
        "事项",
        "事项类型",
        "办件类型",
        "区划",
        "办理部门",
        "部门代码",
        "申请人类型",
        "申请人",
        "证件类型",
        "证件号码",
        "联系电话",
        "渠道",
        "项目代码",
        "收件时间",
        "受理时间",
        "承诺工作日",
        "办结时间",
        "办理结果",
        "结果编号",
        "评价",
        "状态",
    ],
    row: case,
    rows: 8_000,
};

pub(super) const TABLES: [Table; 6] = [ENTERPRISE, PROJECT, DEAL, LICENCE, PENALTY, CASE];

impl Table {
    /// One statement that inserts every row of a JSON array of arrays, its only parameter.
    pub(super) fn insert(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|name| format!("\"{name}\"")).collect();
        let values: Vec<String> = (0..self.columns.len()).map(|at| format!("value ->> {at}")).collect();
        format!("INSERT INTO \"{}\" ({}) SELECT {} FROM json_each(?1)", self.name, names.join(", "), values.join(", "))
    }

    pub(super) fn key(&self) -> &'static str {
        self.columns.first().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_fills_its_columns_and_is_the_same_each_time() {
        for table in TABLES {
            for number in [1, 7, 2_500] {
                assert_eq!((table.row)(number).len(), table.columns.len(), "{}", table.name);
                assert_eq!((table.row)(number), (table.row)(number));
            }
        }
    }

    #[test]
    fn companies_have_codes_of_their_own() {
        let codes: std::collections::HashSet<String> = (1..=25_000).map(company_code).collect();
        assert_eq!(codes.len(), 25_000);
    }
}
