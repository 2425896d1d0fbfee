//! The `[map]` language, from a resource's file to the record.

use std::path::Path;

use guitong_schemas::contract::load::{Purpose, load};
use guitong_schemas::contract::{Directory, Problems};
use guitong_schemas::standard::Obligation;

use super::*;

/// The resource of a directory whose file says this, with `files` beside it. Mandatory fields that it does not map are declared
/// as not provided.
fn declared(entity: &str, body: &str, files: &[(&str, &str)]) -> Result<Resource, Problems> {
    let root = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    let kept = |field: &&guitong_schemas::standard::EntityField| {
        field.obligation == Obligation::Mandatory && !field.in_key && !body.contains(&format!("\n{} =", field.name))
    };
    let missing = Standard::builtin().entity(entity).expect("an entity").fields.iter().filter(kept);
    let missing: String = missing.map(|field| format!("{} = \"无\"\n", field.name).replace('无', "来源没有")).collect();
    write("exchange.toml", "name = \"test\"\ntitle = \"测试\"\ntime_zone = \"Asia/Shanghai\"\n");
    write("departments/office.toml", "title = \"某局\"\ncode = \"11450000PDY00001X0\"\n");
    let system = "title = \"系统\"\ndepartment = \"office\"\nkind = \"sqlite\"\npath = \"a.db\"\ntables = [\"main.*\"]\n";
    write("systems/source.toml", system);
    let head = "code = \"3450010102/000001\"\ntitle = \"资源\"\nsystem = \"source\"\ntable = \"main.表\"\n";
    let sharing = "sharing = { type = 2, condition = \"履职所需\" }\n";
    write("resources/one.toml", &format!("{head}entity = \"{entity}\"\n{sharing}{body}\n[not_provided]\n{missing}"));
    files.iter().for_each(|(name, text)| write(name, text));
    let now = jiff::Timestamp::from_microsecond(NOW_US).expect("a time");
    let directory: Directory = load(root.path(), &|_| None, now, Purpose::Run)?;
    Ok((**directory.resources.values().next().expect("one resource")).clone())
}

/// A mapping over a table of text columns.
struct Language {
    case: Case,
    columns: usize,
}

impl Language {
    fn new(entity: &str, columns: &[&str], body: &str) -> Self {
        Self::with(entity, columns, body, &[])
    }

    fn with(entity: &str, columns: &[&str], body: &str, files: &[(&str, &str)]) -> Self {
        let resource = declared(entity, body, files).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        let source = Source::of_texts(&resource, columns);
        Self { case: Case::new(&resource, source), columns: columns.len() }
    }

    fn run(&self, row: &[Option<&str>]) -> Result<Vec<EntityRecord>, Vec<Rejection>> {
        assert_eq!(row.len(), self.columns, "{row:?}");
        let cells: Vec<_> = std::iter::once(Some("1")).chain(row.iter().copied()).collect();
        match self.case.run(&cells, None).change {
            Change::Good(records) => Ok(records),
            Change::Bad { rejections } => Err(rejections),
            other => panic!("{other:?}"),
        }
    }

    /// A field of the only record, and its own rules in the record's quality; or the rules that the row broke.
    fn field(&self, name: &str, row: &[Option<&str>]) -> (Option<String>, String) {
        match self.run(row) {
            Ok(records) => {
                let [record] = records.as_slice() else { panic!("{records:?}") };
                let quality = std::str::from_utf8(&record.quality).expect("text");
                let own = quality.split(',').filter_map(|mark| mark.strip_prefix(name)?.strip_prefix(':'));
                (self.case.fields(record).remove(name), own.collect::<Vec<_>>().join(","))
            }
            Err(rejections) => {
                let rules = rejections.iter().map(|rejection| format!("{}!{}", rejection.field, rejection.rule));
                (None, rules.collect::<Vec<_>>().join(","))
            }
        }
    }

    /// Runs one-column rows and compares what they make of a field.
    fn expect(&self, name: &str, expected: &[(&str, Option<&str>, &str)]) {
        for (text, value, rules) in expected {
            let found = self.field(name, &[Some("B1"), Some(text)]);
            assert_eq!(found, (value.map(str::to_owned), (*rules).to_owned()), "{name} of {text:?}");
        }
    }
}

/// A service case whose field is made of column `c` by this entry.
fn service(field: &str, entry: &str) -> Language {
    Language::new("ServiceCase", &["bh", "c"], &format!("[map]\ncase_no = \"bh\"\n{field} = {entry}\n"))
}

#[test]
fn the_first_column_that_is_not_empty_is_taken() {
    let body = "[map]\ncase_no = \"bh\"\nagent_name = { first = [\"a\", \"b\", \"c\"] }\n";
    let case = Language::new("ServiceCase", &["bh", "a", "b", "c"], body);
    let of = |a, b, c| case.field("agent_name", &[Some("B1"), a, b, c]).0;
    assert_eq!(of(Some("韦小明"), Some("覃丽"), None).as_deref(), Some("韦小明"));
    assert_eq!(of(None, Some(" / "), Some("覃丽")).as_deref(), Some("覃丽"));
    assert_eq!(of(None, Some("无"), Some("")), None);
}

#[test]
fn an_expression_for_the_whole_value_refuses_others_and_one_for_a_part_warns() {
    let whole = service("dept_name", "{ from = \"c\", extract = '^(.+?)（[0-9A-Z]{18}）$' }");
    whole.expect(
        "dept_name",
        &[
            ("测试局（91450100PDY00001X1）", Some("测试局"), ""),
            ("测试局", None, "dept_name!mapping.no_match"),
            ("无", None, "dept_name!field.missing"),
        ],
    );
    let penalty = "[map]\nrecord_kind = { const = \"2\" }\ndoc_no = \"bh\"\nauthority_uscc = { const = \"11450000PDY00001X0\" }\n\
                   fine = { from = \"c\", extract = '罚款(人民币[^，。；]+)' }\n";
    let fine = Language::new("CreditRecord", &["bh", "c"], penalty);
    let of = |text: &str| {
        let (value, rules) = fine.field("fine", &[Some("桂罚〔2026〕1号"), Some(text)]);
        (value.map(|value| value.chars().filter(char::is_ascii_digit).collect::<String>()), rules)
    };
    assert_eq!(of("责令改正，并处罚款人民币伍仟元整。"), (Some("500000".to_owned()), "mapping.extracted".to_owned()));
    assert_eq!(of("警告"), (None, String::new()), "a text without the part has no value");
}

#[test]
fn one_part_of_a_text_is_taken() {
    let second = service("contact_phone", "{ from = \"c\", split = \"/\", part = 2 }");
    second.expect("contact_phone", &[("16000000000/0771-5500000", Some("0771-5500000"), ""), ("16000000000", None, "")]);
}

#[test]
fn text_is_cleaned_before_anything_else() {
    let name = service("item_name", "{ from = \"c\", clean = [\"html\", \"quotes\"], extract = '^(.+)事项$' }");
    name.expect("item_name", &[("<p>《食品经营许可&#x4E8B;项》</p>", Some("食品经营许可"), "")]);
}

#[test]
fn codes_come_from_a_file_and_others_are_kept_or_replaced() {
    let body = "[map]\ncase_no = \"bh\"\ndept_name = { from = \"c\", codes = \"codes/departments.csv\", other = \"keep\" }\n\
                channel = { from = \"c\", codes = \"codes/channels.csv\", other = \"9\" }\n";
    let departments = "\u{FEFF}value,code,说明\n市人社局,南宁市人力资源和社会保障局,简称\n\"市,局\",某局\n";
    let files = [("codes/departments.csv", departments), ("codes/channels.csv", "value,code\nWEB,1\n")];
    let problems = declared("ServiceCase", body, &files).expect_err("no such channel");
    assert_eq!(problems.list.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["unknown-code"]);
    let body = body.replace(", other = \"9\"", ", other = \"2\"");
    let case = Language::with("ServiceCase", &["bh", "c"], &body, &files);
    case.expect(
        "dept_name",
        &[
            ("市人社局", Some("南宁市人力资源和社会保障局"), ""),
            ("市,局", Some("某局"), ""),
            ("自治区人社厅", Some("自治区人社厅"), ""),
        ],
    );
    case.expect("channel", &[("WEB", Some("1"), ""), ("窗", Some("2"), "")]);
}

#[test]
fn codes_come_from_a_table_of_the_standard() {
    let person = "[map]\nid_doc_type = { const = \"111\" }\nid_doc_no = \"bh\"\n\
                  nationality = { from = \"c\", codes = { table = \"gbt2659_countries\", by = \"numeric\", to = \"alpha3\" } }\n";
    let case = Language::new("NaturalPerson", &["bh", "c"], &person.replace("const = \"111\"", "const = \"414\""));
    let of = |code| case.field("nationality", &[Some("PDY000001"), Some(code)]);
    assert_eq!(of("704"), (Some("VNM".to_owned()), String::new()));
    assert_eq!(of("VNM"), (None, "code.unknown".to_owned()), "found by the column that is named, and by nothing else");
}

#[test]
fn an_expression_that_runs_away_costs_its_own_record() {
    let body = "[map]\ncase_no = \"bh\"\nagent_name = { cel = \"row.c.split('').map(x, row.c.split('').map(y, x + y).join('')).join('')\" }\n";
    let case = Language::new("ServiceCase", &["bh", "c"], body);
    let of = |text: &str| case.field("agent_name", &[Some("B1"), Some(text)]);
    assert_eq!(of("甲乙").0.as_deref(), Some("甲甲甲乙乙甲乙乙"));
    assert_eq!(of(&"甲".repeat(1_000)), (None, "mapping.expression_stopped".to_owned()));
    assert_eq!(of(&"甲".repeat(2_000)), (None, "mapping.expression_stopped".to_owned()), "a text over the limit");
    assert_eq!(of("甲").0.as_deref(), Some("甲甲"), "the next one has its own budget");
}

#[test]
fn each_item_of_a_list_has_its_code() {
    let body = "[map]\nrecord_kind = { const = \"2\" }\ndoc_no = \"bh\"\nauthority_uscc = { const = \"11450000PDY00001X0\" }\n\
                penalty_kind = { from = [\"a\", \"b\"], join = \"、\", split = \"、\", codes = { \"警\" = \"警告\", \"罚\" = \"罚款\" }, other = \"keep\" }\n";
    let body = body.replace("\"警告\"", "\"1\"").replace("\"罚款\"", "\"2\"");
    let case = Language::new("CreditRecord", &["bh", "a", "b"], &body);
    let of = |a, b| case.field("penalty_kind", &[Some("桂罚〔2026〕1号"), Some(a), b]).0;
    assert_eq!(of("警", Some("罚")).as_deref(), Some("1;2"));
    assert_eq!(of("警", Some("罚款")).as_deref(), Some("1;2"), "one that is not listed is read by its name");
    assert_eq!(of("罚", None).as_deref(), Some("2"));
}

#[test]
fn short_codes_are_padded_and_empty_ones_are_not() {
    let padded = service("item_basic_code", "{ from = \"c\", pad = { width = 5 } }");
    padded.expect(
        "item_basic_code",
        &[("42", Some("00042"), ""), ("123456", Some("123456"), ""), ("无", None, "item_basic_code!field.missing")],
    );
}

#[test]
fn the_first_case_that_holds_makes_the_field() {
    let body = "[map]\ncase_no = \"bh\"\nagent_doc_no = { cases = [\n\
                { when = \"row.lx == '1'\", from = \"a\", pad = { width = 4 } },\n\
                { when = \"row.lx == '2' && row.b.size() > 1\", from = \"b\" },\n\
                { when = \"row.lx == '3'\", const = \"PDY1\" },\n] }\n";
    let case = Language::new("ServiceCase", &["bh", "lx", "a", "b"], body);
    let of = |kind, a, b| case.field("agent_doc_no", &[Some("B1"), Some(kind), a, b]);
    assert_eq!(of("1", Some("7"), Some("乙")).0.as_deref(), Some("0007"));
    assert_eq!(of("2", Some("7"), Some("B2")).0.as_deref(), Some("B2"));
    assert_eq!(of("3", None, None).0.as_deref(), Some("PDY1"));
    assert_eq!(of("4", Some("7"), Some("B2")), (None, String::new()), "no case holds");
    assert_eq!(of("2", Some("7"), None), (None, "mapping.expression".to_owned()), "a null has no size");
}

#[test]
fn a_unit_stands_in_a_column() {
    let body = "[map]\nunified_deal_code = \"bh\"\namount = { from = \"je\", unit = { from = \"dw\" } }\n";
    let case = Language::new("PublicResourceTransaction", &["bh", "je", "dw"], body);
    let of = |amount, unit| {
        let (value, rules) = case.field("amount", &[Some("T1"), Some(amount), unit]);
        (value.map(|value| value.chars().filter(char::is_ascii_digit).collect::<String>()), rules)
    };
    let is = |digits: &str| (Some(digits.to_owned()), String::new());
    assert_eq!(of("5,000,000.00", Some("元")), is("500000000"));
    assert_eq!(of("500", Some("万元")), is("500000000"));
    assert_eq!(of("0.05", Some(" 亿 ")), is("500000000"));
    assert_eq!(of("伍佰万元整", Some("人民币元")), is("500000000"));
    for unit in [Some("％"), Some("%"), Some("元/平方米"), None] {
        assert_eq!(of("12", unit), (None, "number.unit".to_owned()), "{unit:?}");
    }
    let case = Language::new(
        "PublicResourceTransaction",
        &["bh", "je", "dw"],
        &body.replace("\"dw\" }", "\"dw\", default = \"万元\" }"),
    );
    let found = case.field("amount", &[Some("T1"), Some("3"), Some("/")]);
    assert_eq!(found.0.map(|value| value.contains("3000000")), Some(true), "{}", found.1);
}

#[test]
fn rows_outside_the_condition_give_no_record() {
    let body = "where = \"row.bz != '2'\"\n[map]\ncase_no = \"bh\"\n";
    let case = Language::new("ServiceCase", &["bh", "bz"], body);
    assert_eq!(case.run(&[Some("B1"), Some("0")]).expect("good").len(), 1);
    assert_eq!(case.run(&[Some("B1"), Some("2")]).expect("outside").len(), 0);
    let numeric = Language::new("ServiceCase", &["bh", "bz"], &body.replace("row.bz != '2'", "int(row.bz) < 2"));
    let rejections = numeric.run(&[Some("B1"), Some("二")]).expect_err("neither true nor false");
    assert_eq!((rejections[0].rule.as_str(), rejections[0].field.as_str()), ("row.condition", ""));
}

#[test]
fn items_come_from_groups_of_columns_lists_and_json() {
    let steps = |columns: &[&str], steps: &str, row: &[Option<&str>]| {
        let case = Language::new("ServiceCase", columns, &format!("[map]\ncase_no = \"bh\"\nsteps = {steps}\n"));
        case.field("steps", row)
    };
    let time = "2017-09-22T08:30:05+08:00";
    let groups = "{ items = [{ name = \"a\", ended = \"at\" }, { name = \"b\", ended = \"bt\", action = { const = \"1\" } }] }";
    let groups = |row: &[Option<&str>]| steps(&["bh", "a", "at", "b", "bt"], groups, row);
    let whole = groups(&[Some("B1"), Some("受理"), Some("2017-09-22 08:30:05"), Some("办结"), None]);
    assert_eq!(whole, (Some(format!("受理,,,{time},,;办结,,,,1,")), String::new()));

    let lists = "{ split = \";\", item = { name = \"a\", started = { from = \"t\", format = \"yyyyMMddHHmmss\" } } }";
    let lists = |row: &[Option<&str>]| steps(&["bh", "a", "t"], lists, row);
    assert_eq!(lists(&[Some("B1"), Some("受理;办结"), Some("20170922083005;")]).0, Some(format!("受理,,{time},,,;办结,,,,,")));
    assert_eq!(lists(&[Some("B1"), Some("受理;办结"), Some("20170922083005")]), (None, "row.parallel_lists".to_owned()));
    assert_eq!(lists(&[Some("B1"), Some("受理;办结"), None]).0.as_deref(), Some("受理,,,,,;办结,,,,,"));
    assert_eq!(lists(&[Some("B1"), None, None]), (None, String::new()));

    let json = "{ from = \"j\", item = { name = \"mc\", handler = { first = [\"ry\", \"jbr\"] }, ended = \"sj\" } }";
    let json = |text: &str| steps(&["bh", "j"], json, &[Some("B1"), Some(text)]);
    let one = r#"[{"mc":"受理","jbr":"覃丽","sj":"2017-09-22 08:30:05"},{"mc":null}]"#;
    assert_eq!(json(one), (Some(format!("受理,覃丽,,{time},,")), String::new()));
    assert_eq!(json("{}"), (None, "steps.form".to_owned()));
    assert_eq!(json(r#"[{"mc":["受理"]}]"#), (None, "steps.form".to_owned()));
}

#[test]
fn every_example_of_the_readme_is_read() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).expect("README.md");
    let section = readme.split_once("## Mapping a table").expect("the section").1.split("\n## ").next().expect("its text");
    let examples = section.lines().filter_map(|line| line.trim_end_matches([' ', '|']).rsplit_once("| `")?.1.strip_suffix('`'));
    let files = [("codes/status.csv", "value,code\n在营,1\n")];
    let details = "[details.steps]\ntable = \"环节\"\nkey = \"bh\"\norder_by = \"xh\"\n";
    let mut count = 0;
    for example in examples.filter(|example| example.contains(" = {")) {
        let (entity, key) = match example.starts_with("steps") || example.starts_with("finished_at") {
            true => ("ServiceCase", "case_no = \"bh\"\n"),
            false if example.starts_with("uscc") => ("LegalEntity", ""),
            false => ("LegalEntity", "uscc = \"xydm\"\n"),
        };
        let resource = declared(entity, &format!("{details}[map]\n{key}{example}\n"), &files);
        let resource = resource.unwrap_or_else(|problems| panic!("{example}\n{}", problems.render(false)));
        Mapping::compile(&resource, Standard::builtin(), Zone::shanghai()).unwrap_or_else(|error| panic!("{example}: {error}"));
        count += 1;
    }
    assert_eq!(count, 21, "the examples of the table");
}
