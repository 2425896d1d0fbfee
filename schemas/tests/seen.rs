//! What `guitong check` says of a mapping after `guitong system inspect` has seen the tables.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::Path;

use guitong_schemas::contract::{Directory, Problem, Problems, Purpose, load};
use guitong_schemas::profile::{Cell, Profile, SampledColumn, TableSample, Values};
use guitong_schemas::standard::{Clock, Standard, Zone};
use guitong_schemas::table::{Column, ColumnType, Table, TableName};

const ROWS: usize = 40;
const NOON: &str = "2026-11-23T12:00:00+08:00";
const CHECK: Purpose = Purpose::Check { unset_secrets: true };

/// Name, comment, declared type, type, and what stands in a row.
type Given = (&'static str, &'static str, &'static str, ColumnType, fn(usize) -> Option<String>);

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

/// A table of cases; each column has one property.
fn cases() -> Vec<Given> {
    let numeric = |precision, scale| ColumnType::Decimal { precision, scale };
    let timestamp = ColumnType::Timestamp { precision: 6 };
    vec![
        ("bh", "编号", "bigint", ColumnType::Int64, |row| Some(row.to_string())),
        ("qymc", "企业名称", "character varying(300)", ColumnType::Text, |row| Some(format!("南宁第{row}有限公司"))),
        ("long", "", "text", ColumnType::Text, |row| Some("长".repeat(if row == 7 { 201 } else { 20 }))),
        ("zt", "状态", "text", ColumnType::Text, |row| text(["存续", "吊销", "吊销未注销"][row % 3])),
        ("bz", "币种", "text", ColumnType::Text, |row| text(["156", "840", "998"][row % 3])),
        ("sfzh", "身份证", "text", ColumnType::Text, |row| text(["男", "女", "其他"][row % 3])),
        ("clrq", "成立日期", "timestamp", timestamp.clone(), |row| Some(format!("2017-09-22 {:02}:00:00", row % 2 * 8))),
        ("rq", "日期", "timestamp", timestamp, |_| text("2017-09-22 00:00:00")),
        ("rqsj", "日期", "text", ColumnType::Text, |_| text("2017-09-22 08:30")),
        ("rq8", "日期", "text", ColumnType::Text, |_| text("20170922")),
        ("ny", "", "integer", ColumnType::Int32, |row| Some(row.to_string())),
        ("bds", "标段数", "numeric(10,2)", numeric(10, 2), |row| text(["3.50", "4.00"][row % 2])),
        ("rs", "人数", "numeric(10,2)", numeric(10, 2), |_| text("12.00")),
        ("je", "金额", "double precision", ColumnType::Float64, |_| text("1.5")),
        ("je4", "金额", "numeric(18,4)", numeric(18, 4), |_| text("1.5")),
        ("kong", "", "text", ColumnType::Text, |_| None),
        ("zp", "照片", "bytea", ColumnType::Bytes, |_| text("\\x00ff")),
        ("企业状态", "登记状态", "text", ColumnType::Text, |_| text("吊销")),
        ("sj", "时间", "timestamp", ColumnType::Timestamp { precision: 6 }, |_| text("2026-01-02 08:00:00")),
    ]
}

/// A dictionary that lookups are declared over.
fn dictionary() -> Vec<Given> {
    vec![
        ("dm", "代码", "text", ColumnType::Text, |row| Some(row.to_string())),
        ("mc", "名称", "text", ColumnType::Text, |row| text(["存续", "歇业"][row % 2])),
    ]
}

fn sample(name: &str, given: Vec<Given>) -> TableSample {
    let column =
        |(name, _, _, kind, _): &Given| Column { name: (*name).to_owned(), kind: kind.clone(), nullable: true, default: None };
    let about = |(_, comment, declared, ..): &Given| SampledColumn {
        comment: Some((*comment).to_owned()).filter(|comment| !comment.is_empty()),
        declared: (*declared).to_owned(),
    };
    let cell = |text: String| Cell { length: u32::try_from(text.chars().count()).unwrap(), text };
    TableSample {
        table: Table { name: TableName::new("public", name), columns: given.iter().map(column).collect(), key: vec![0] },
        comment: None,
        columns: given.iter().map(about).collect(),
        rows: 48_200,
        bytes: 0,
        sample: (0..ROWS).map(|row| given.iter().map(|(.., value)| value(row).map(cell)).collect()).collect(),
    }
}

/// A directory whose system was inspected, with one resource; `lines` stand at line 7 of its file.
fn directory(entity: &str, lines: &str, exchange: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let resource = format!(
        "code = \"3450010102/000001\"\ntitle = \"企业\"\nsystem = \"licensing\"\ntable = \"public.qy\"\nentity = \"{entity}\"\n\
         sharing = {{ type = 3, basis = \"某法第三条\" }}\n{lines}"
    );
    let system =
        "title = \"登记\"\ndepartment = \"licensing\"\nkind = \"postgres\"\nurl = \"${env:URL}\"\ntables = [\"public.*\"]\n";
    for (path, text) in [
        ("exchange.toml", format!("name = \"test\"\ntitle = \"测试\"\n{exchange}")),
        ("departments/licensing.toml", "title = \"登记\"\ncode = \"11450000PDY00001X0\"\n".to_owned()),
        ("systems/licensing.toml", system.to_owned()),
        ("resources/enterprise.toml", resource),
    ] {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let clock = Clock::at(NOON.parse::<jiff::Timestamp>().unwrap().as_microsecond(), Zone::shanghai());
    let tables = [("qy", cases()), ("zd", dictionary())];
    let tables = tables.map(|(name, given)| sample(name, given).profile(Standard::builtin(), &clock, Values::Plain));
    let profile = Profile { system: "licensing".to_owned(), taken: NOON.to_owned(), tables: tables.into() };
    profile.save(root.path()).unwrap();
    root
}

fn read(root: &Path, purpose: Purpose) -> Result<Directory, Problems> {
    load(root, &|_| None, NOON.parse().unwrap(), purpose)
}

/// Every problem and warning of the resource's file, but the mandatory fields that a short map leaves out.
fn found(entity: &str, lines: &str) -> Vec<Problem> {
    let root = directory(entity, lines, "time_zone = \"Asia/Shanghai\"\n");
    let list = match read(root.path(), CHECK) {
        Ok(directory) => directory.warnings,
        Err(problems) => problems.list,
    };
    list.into_iter().filter(|problem| problem.code != "missing-field").collect()
}

/// `severity code line:column message | help`, one a line.
fn told(problems: &[Problem]) -> String {
    let mut out = String::new();
    for Problem { severity, code, message, excerpt, help, .. } in problems {
        let place = excerpt.as_ref().map_or_else(String::new, |it| format!("{}:{}", it.place.line, it.place.column));
        writeln!(out, "{severity:?} {code} {place} {message} | {}", help.as_deref().unwrap_or_default()).unwrap();
    }
    out
}

const HEAD: &str = "[map]\n";

#[test]
fn what_does_not_fit_is_told_at_its_place() {
    for (entity, line, expected) in [
        (
            "LegalEntity",
            "name = \"qymcc\"",
            "Error unknown-column 8:8 table public.qy has no column `qymcc` | did you mean `qymc` (企业名称)? `guitong system inspect licensing` looks again",
        ),
        ("LegalEntity", "name = \"QYMC\"", "Error unknown-column 8:8 table public.qy has no column `QYMC` | did you mean `qymc`"),
        (
            "LegalEntity",
            "name = \"企业名称\"",
            "Error unknown-column 8:8 table public.qy has no column `企业名称` | did you mean `qymc`",
        ),
        (
            "LegalEntity",
            "name = { cel = \"row.nix + row.qymc\" }",
            "Error unknown-column 8:16 table public.qy has no column `nix` | it has `bh`, `qymc`",
        ),
        (
            "LegalEntity",
            "reg_capital = { from = \"je4\", unit = { from = \"dw\" } }",
            "Error unknown-column 8:47 table public.qy has no column `dw`",
        ),
        ("LegalEntity", "name = { cases = [{ when = \"row.nix == '1'\", from = \"rq8\" }] }", "Error unknown-column 8:28 table"),
        (
            "LegalEntity",
            "name = \"long\"",
            "Error lossy 8:8 `name` (机构名称) takes 200 characters, and `long` holds a value of 201 | the longest of 40 sampled rows",
        ),
        (
            "LegalEntity",
            "name = \"qymc\"",
            "Warning lossy 8:8 `name` (机构名称) takes 200 characters, and `qymc` is declared for 300",
        ),
        (
            "LegalEntity",
            "established = \"clrq\"",
            "Error lossy 8:15 `established` (成立日期) takes a day, and `clrq` holds a time of day in 20 of 40 sampled rows | if the day alone is meant, say so: format =",
        ),
        (
            "LegalEntity",
            "established = \"rqsj\"",
            "Warning lossy 8:15 `established` (成立日期) takes a day, and `rqsj` holds a time of day in 40 of 40",
        ),
        (
            "LegalEntity",
            "established = \"bds\"",
            "wrong-type 8:15 `established` (成立日期) reads none of the 40 values of `bds` that were seen | declare their `format`",
        ),
        (
            "LegalEntity",
            "established = \"zp\"",
            "Error wrong-type 8:15 `established` (成立日期) takes a day, and `zp` (bytea) holds none",
        ),
        (
            "LegalEntity",
            "employees = \"rq\"",
            "Error wrong-type 8:13 `employees` (职工人数) takes a number, and `rq` (timestamp) holds none",
        ),
        (
            "LegalEntity",
            "legal_rep_name = \"ny\"",
            "Error wrong-type 8:18 `legal_rep_name` (法定代表人) takes a text, and `ny` (integer) holds none",
        ),
        (
            "LegalEntity",
            "uscc = \"qymc\"",
            "Error wrong-type 8:8 `uscc` (统一社会信用代码) reads none of the 40 values of `qymc` that were seen",
        ),
        (
            "LegalEntity",
            "employees = \"bds\"",
            "Error lossy 8:13 `employees` (职工人数) takes whole numbers, and `bds` (numeric(10,2)) holds fractions in 20 of 40 sampled rows | say how it is made whole, as cel =",
        ),
        (
            "LegalEntity",
            "employees = \"rs\"",
            "Warning lossy 8:13 `employees` (职工人数) takes whole numbers; `rs` (numeric(10,2)) may hold fractions, though none was seen",
        ),
        (
            "LegalEntity",
            "reg_capital = \"je\"",
            "Warning lossy 8:15 `reg_capital` (注册资本) is an exact number, and `je` (double precision) holds about 15 digits",
        ),
        (
            "LegalEntity",
            "reg_capital = { from = \"je4\", unit = \"元\" }",
            "Warning lossy 8:24 `reg_capital` (注册资本) has 6 places, and `je4` (numeric(18,4)) gives 8: it is rounded",
        ),
        (
            "LegalEntity",
            "name = \"kong\"",
            "Error empty-column 8:8 `name` (机构名称) is mandatory, and `kong` is empty in all 40 sampled rows | map another column, give a `default`, or say why it is missing: [not_provided] name",
        ),
        (
            "LegalEntity",
            "status = { from = \"zt\", codes = { \"存续\" = \"1\", \"吊销\" = \"3\" } }",
            "Error not-covered 8:33 the code list of `status` (状态) leaves out a value that `zt` holds | \"吊销未注销\" in 13 of 40 sampled rows; give it a code",
        ),
        (
            "LegalEntity",
            "status = \"zt\"",
            "Warning not-covered 8:10 the code list of `status` (状态) leaves out values that `zt` holds | \"存续\", \"吊销未注销\" in 27 of 40 sampled rows; translate it with `codes`",
        ),
        (
            "LegalEntity",
            "currency = { from = \"bz\", codes = { table = \"iso4217_currency\", by = \"numeric\", to = \"code\" } }",
            "Error not-covered 8:35 the code list of `currency` (币种) leaves out a value that `bz` holds | \"998\" in 13",
        ),
        (
            "NaturalPerson",
            "marital = { from = \"zt\", codes = { \"已婚\" = \"20\" } }",
            "Error not-covered 8:34 the code list of `marital` (婚姻状况) leaves out values that `zt` holds | 3 values in 40 of 40 sampled rows; give",
        ),
    ] {
        let out = told(&found(entity, &format!("{HEAD}{line}\n")));
        assert!(out.contains(expected), "{line}\nexpected {expected}\nfound\n{out}");
        assert_eq!(out.lines().count(), 1, "{line}\n{out}");
    }
}

#[test]
fn what_the_file_settles_is_not_told() {
    for line in [
        "status = { from = \"zt\", codes = { \"存续\" = \"1\", \"吊销\" = \"3\" }, other = \"9\" }",
        "status = { from = \"zt\", codes = { \"存续\" = \"1\" }, other = \"keep\" }",
        "status = { from = \"zt\", codes = { \"存续\" = \"1\", \"吊销\" = \"3\", \"吊销未注销\" = \"3\" } }",
        "established = { from = \"clrq\", format = \"yyyy-MM-dd HH:mm:ss\" }",
        "established = \"rq\"",
        "established = \"rq8\"",
        "name = { from = \"long\", extract = '^(.{1,200})' }",
        "name = { from = \"kong\", default = \"测试\" }",
        "name = { first = [\"kong\", \"rq8\"] }",
        "employees = { cel = \"int(double(row.bds))\" }",
        "reg_capital = { from = \"rs\", unit = \"元\" }",
        "reg_capital = \"je4\"",
        "status = \"企业状态\"",
        "status = { from = \"zt\", clean = [\"brackets\"], codes = { \"存\" = \"1\" } }",
    ] {
        let out = told(&found("LegalEntity", &format!("{HEAD}{line}\n")));
        assert_eq!(out, "", "{line}");
    }
}

#[test]
fn rows_that_may_be_left_out_make_a_warning() {
    let status = "{ from = \"zt\", codes = { \"存续\" = \"1\" } }";
    for lines in [
        format!("where = \"row.bh > 1\"\n{HEAD}status = {status}\n"),
        format!("{HEAD}status = {{ cases = [{{ when = \"row.bh > 1\", from = \"zt\", codes = {{ \"存续\" = \"1\" }} }}] }}\n")
            .replace("}] }", "}, { const = \"1\" }] }"),
        format!(
            "[lookups.d]\ntable = \"zd\"\nkey = \"dm\"\n{HEAD}status = {}\n",
            status.replace("\"zt\",", "\"bh\", lookup = \"d\", value = \"mc\",")
        ),
    ] {
        let out = told(&found("LegalEntity", &lines));
        assert!(out.starts_with("Warning not-covered") && out.lines().count() == 1, "{lines}\n{out}");
    }
}

#[test]
fn columns_of_other_tables_are_looked_for_there() {
    let declared = "[lookups.d]\ntable = \"zd\"\nkey = \"dm\"\nfrom = \"bh\"\n";
    let wrong = "[lookups.d]\ntable = \"zd\"\nkey = \"dmm\"\nnewest_by = \"sj\"\nfrom = \"bhh\"\n";
    for (joins, line, expected) in [
        (declared, "name = \"d.mcc\"", vec!["12:8 table public.zd has no column `mcc` | did you mean `mc` (名称)?"]),
        (declared, "name = \"d.名称\"", vec!["12:8 table public.zd has no column `名称` | did you mean `mc` (名称)?"]),
        (
            declared,
            "name = { from = \"bh\", lookup = \"d\", value = \"x\" }",
            vec!["12:45 table public.zd has no column `x` | it has `dm`, `mc`"],
        ),
        (
            declared,
            "reg_capital = \"d.mc\"",
            vec!["wrong-type 12:15 `reg_capital` (注册资本) reads none of the 40 values of `mc`"],
        ),
        (
            wrong,
            "name = \"d.mc\"",
            vec![
                "7:10 table public.zd has no column `dmm`",
                "7:10 table public.zd has no column `sj`",
                "7:10 table public.qy has no column `bhh`",
            ],
        ),
    ] {
        let out = told(&found("LegalEntity", &format!("{joins}{HEAD}{line}\n")));
        assert_eq!(out.lines().count(), expected.len(), "{line}\n{out}");
        for expected in expected {
            assert!(out.contains(expected), "{line}\nexpected {expected}\nfound\n{out}");
        }
    }
}

#[test]
fn a_time_without_a_zone_is_one_of_the_declared_zone() {
    let lines = format!("{HEAD}received_at = \"sj\"\n");
    assert_eq!(told(&found("ServiceCase", &lines)), "");
    let root = directory("ServiceCase", &lines, "");
    let out = told(&read(root.path(), CHECK).unwrap_err().list);
    assert!(
        out.contains("Warning no-time-zone 8:15 `received_at` (收件时间) is an instant, and `sj` (timestamp) has no time zone"),
        "{out}"
    );
    assert!(out.contains("say in exchange.toml which one is meant: time_zone = \"Asia/Shanghai\""), "{out}");
}

/// A whole map, of which two columns are not there.
const WHOLE: &str = "[map]\nuscc = \"xydm\"\nname = \"qymcc\"\nlegal_rep_name = { const = \"测试\" }\nestablished = \"rq\"\n\
                     status = { const = \"1\" }\nreg_authority = { const = \"测试\" }\nreg_authority_code = { const = \"11450000PDY00001X0\" }\n\
                     reg_address = { const = \"测试\" }\nreg_address_division = { const = \"450103\" }\n";

#[test]
fn only_a_check_looks_at_a_profile() {
    let root = directory("LegalEntity", WHOLE, "");
    let problems = read(root.path(), CHECK).unwrap_err();
    assert_eq!(problems.summary(), "2 errors in 1 file; 1 department, 1 system, 0 resources and 0 subscriptions are well.");
    let runs =
        load(root.path(), &|name| (name == "URL").then(|| "postgres://a@b/c".to_owned()), NOON.parse().unwrap(), Purpose::Run);
    let runs = runs.unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    assert!(runs.warnings.is_empty());
    assert!(read(root.path(), Purpose::Look).is_ok());
}

#[test]
fn tables_that_were_not_seen_are_named_and_a_broken_profile_is_reported() {
    let joins = "[lookups.d]\ntable = \"zd\"\nkey = \"dm\"\n[lookups.e]\ntable = \"other\"\nkey = \"dm\"\n";
    let root = directory("LegalEntity", &format!("{joins}{WHOLE}").replace("\"xydm\"", "\"rq8\"").replace("qymcc", "rq8"), "");
    let checked = read(root.path(), CHECK);
    // A date is no credit code.
    assert!(told(&checked.unwrap_err().list).starts_with("Error wrong-type"));
    let directory = read(root.path(), Purpose::Look).unwrap();
    let unseen = guitong_schemas::contract::seen::unseen(&directory);
    assert_eq!(format!("{unseen:?}").matches("TableName").count(), 1, "{unseen:?}");
    assert!(format!("{unseen:?}").contains("other"), "{unseen:?}");

    let profile = root.path().join("profiles/licensing.json");
    std::fs::write(&profile, "{").unwrap();
    let problems = read(root.path(), CHECK).unwrap_err().render(false);
    let [first, second, third, ..] = problems.lines().collect::<Vec<_>>()[..] else { panic!("{problems}") };
    assert!(first.starts_with("error[unreadable]: is no profile: EOF"), "{problems}");
    assert_eq!((second, third), ("  --> profiles/licensing.json", "   = `guitong system inspect licensing` writes it anew"));
    std::fs::remove_file(&profile).unwrap();
    let directory = read(root.path(), CHECK).unwrap();
    let unseen = guitong_schemas::contract::seen::unseen(&directory);
    assert_eq!(format!("{unseen:?}").matches("TableName").count(), 3, "{unseen:?}");
}

/// Each row of details gives a value of a list: its code list has to cover them all.
#[test]
fn lists_of_details_are_covered() {
    let details = "[details.d]\ntable = \"zd\"\nkey = \"dm\"\nfrom = \"bh\"\norder_by = \"dm\"\n";
    let of = |codes: &str| {
        let line = format!("penalty_kind = {{ details = \"d\", of = \"every\", from = \"mc\"{codes} }}\n");
        told(&found("CreditRecord", &format!("{details}{HEAD}{line}")))
    };
    let out = of(", codes = { \"存续\" = \"1\" }");
    let wanted = "Warning not-covered 13:68 the code list of `penalty_kind` (处罚类别) leaves out a value that `mc` holds | \
                  1 value in 20 of 40 sampled rows";
    assert!(out.starts_with(wanted), "{out}");
    let out = of("");
    assert!(out.starts_with("Warning not-covered") && out.contains("translate it with `codes`"), "{out}");
    assert_eq!(of(", codes = { \"存续\" = \"1\", \"歇业\" = \"9\" }"), "");
    let out = of(", codes = { \"存续\" = \"1\", \"歇业\" = \"8\" }");
    assert!(out.contains("unknown-code") && out.contains("has no code `8`"), "{out}");
}

#[test]
fn columns_of_details_are_looked_for_there() {
    let details = "[details.d]\ntable = \"zd\"\nkey = \"dm\"\nfrom = \"bh\"\norder_by = \"mcc\"\nwhere = \"row.x == '1'\"\n";
    let line = "reg_capital = { details = \"d\", of = \"last\", from = \"mc\" }\nname = { details = \"d\", of = \"row.y == '1'\", from = \"qymc\" }\n";
    let out = told(&found("LegalEntity", &format!("{details}{HEAD}{line}")));
    for expected in [
        "unknown-column 7:10 table public.zd has no column `mcc`",
        "unknown-column 12:9 table public.zd has no column `x`",
        "Warning wrong-type 14:52 `reg_capital` (注册资本) reads none of the 40 values of `mc`",
        "unknown-column 15:30 table public.zd has no column `y`",
        "unknown-column 15:53 table public.zd has no column `qymc`",
    ] {
        assert!(out.contains(expected), "{expected}\n{out}");
    }
    assert_eq!(out.lines().count(), 5, "{out}");
}
