//! Tables that a resource reads beside its own: what a file declares, and what is said of a wrong one.

#![allow(clippy::unwrap_used, clippy::panic)]

use guitong_schemas::contract::mapping::{Items, ValueSource, Which};
use guitong_schemas::contract::resource::Place;
use guitong_schemas::contract::{Directory, Join, JoinKind, Problems, Purpose, load};
use guitong_schemas::table::TableName;

const HEAD: &str = "code = \"3450010102/000001\"\ntitle = \"办件\"\nsystem = \"hall\"\ntable = \"main.bj\"\nentity = \"LegalEntity\"\n\
                    sharing = { type = 3, basis = \"某法第三条\" }\n";
const MAP: &str = "\n[map]\nuscc = \"a\"\nname = \"b\"\nlegal_rep_name = \"c\"\nestablished = \"d\"\nstatus = { const = \"1\" }\n\
                   reg_authority = \"e\"\nreg_authority_code = \"f\"\nreg_address = \"g\"\nreg_address_division = \"h\"\n";

/// A directory of one resource; `joins` stands at its line 7, `more` at the end of its map.
fn directory(joins: &str, more: &str) -> Result<Directory, Problems> {
    written(HEAD, joins, &format!("{MAP}{more}"))
}

fn written(head: &str, joins: &str, map: &str) -> Result<Directory, Problems> {
    let root = tempfile::tempdir().unwrap();
    let system = "title = \"大厅\"\ndepartment = \"hall\"\nkind = \"sqlite\"\npath = \"a.db\"\ntables = [\"main.bj\", \"main.zd_*\"]\n\
                  exclude_columns = [\"main.zd_bm.mm\"]\n";
    let files = [
        ("exchange.toml", "name = \"test\"\ntitle = \"测试\"\n"),
        ("departments/hall.toml", "title = \"大厅\"\ncode = \"11450000PDY00001X0\"\n"),
        ("systems/hall.toml", system),
        ("resources/case.toml", &format!("{head}{joins}{map}")),
    ];
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let now = "2026-11-23T12:00:00+08:00".parse().unwrap();
    load(root.path(), &|_| None, now, Purpose::Check { unset_secrets: true })
}

#[test]
fn joins_become_what_they_declare() {
    let joins = "[lookups.dept]\ntable = \"zd_bm\"\nkey = [\"bm\", \"lb\"]\nnewest_by = \"gxsj\"\n\
                 [joins.\"受理\"]\ntable = \"main.zd_sl\"\nkey = \"bjh\"\n\
                 [lookups.qh]\ntable = \"zd_qh\"\nkey = \"id\"\nfrom = \"受理.qhid\"\n";
    let more = "contact = \"qh.dm\"\nscope = { from = [\"bmdm\", \"lb\"], lookup = \"dept\", value = \"xydm\" }\n";
    let directory = directory(joins, more).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let resource = directory.resources.values().next().unwrap();
    let dept = Join {
        kind: JoinKind::Lookup,
        table: TableName::new("main", "zd_bm"),
        raw_topic: "raw.hall.main.zd_bm".into(),
        key: vec!["bm".into(), "lb".into()],
        from: Vec::new(),
        order: vec!["gxsj".into()],
        condition: None,
        at: Place { line: 7, column: 10 },
    };
    assert_eq!(resource.joins["dept"], dept);
    let accept = &resource.joins["受理"];
    assert_eq!((accept.kind, &accept.from), (JoinKind::Row, &vec!["bjh".to_owned()]), "named as the key where nothing else is");
    assert_eq!(resource.joins["qh"].from, ["受理.qhid"]);
    let (lookup, from, value) = ("dept".into(), vec!["bmdm".into(), "lb".into()], "xydm".into());
    assert_eq!(resource.map["scope"].value, ValueSource::Lookup { lookup, from, value });
}

#[test]
fn every_mistake_is_reported_at_its_place() {
    let dept = "[lookups.dept]\ntable = \"zd_bm\"\nkey = \"bm\"\n";
    let with = |text: &str| format!("{dept}{text}");
    for (joins, more, code, line, part) in [
        ("[lookups.dept]\nkey = \"bm\"\n".to_owned(), "", "missing-key", 7, "`lookups.dept.table` is missing"),
        ("[lookups.dept]\ntable = \"zd_bm\"\n".to_owned(), "", "missing-key", 7, "`lookups.dept.key` is missing"),
        ("[lookups.dept]\ntable = \"other\"\nkey = \"bm\"\n".to_owned(), "", "not-tailed", 8, "does not tail main.other"),
        ("[lookups.dept]\ntable = \"zd_*\"\nkey = \"bm\"\n".to_owned(), "", "bad-value", 8, "names one table"),
        ("[lookups.dept]\ntable = \"bj\"\nkey = \"bm\"\n".to_owned(), "", "own-table", 8, "the resource's own table"),
        ("[lookups.\"a.b\"]\ntable = \"zd_bm\"\nkey = \"bm\"\n".to_owned(), "", "bad-name", 7, "`a.b` cannot be a name"),
        (with("keys = \"x\"\n"), "", "unknown-key", 10, "did you mean `key`"),
        (with("[joins.dept]\ntable = \"zd_sl\"\nkey = \"x\"\n"), "", "duplicate", 10, "declared twice"),
        (with("from = [\"a\", \"b\"]\n"), "", "key-length", 10, "2 values for a key of 1 column"),
        ("[lookups.dept]\ntable = \"zd_bm\"\nkey = \"mm\"\n".to_owned(), "", "excluded-column", 7, "`mm` is excluded"),
        (with(""), "contact = \"dept.mc\"\n", "missing-key", 21, "does not say which columns it looks up"),
        (with("from = \"x\"\n"), "contact = \"dept.mm\"\n", "excluded-column", 22, "`dept.mm` is excluded"),
        (with(""), "contact = { from = \"x\", lookup = \"dep\", value = \"v\" }\n", "unknown-lookup", 21, "did you mean `dept`"),
        (with(""), "contact = { from = \"x\", lookup = \"dept\" }\n", "missing-key", 21, "`map.contact.value` is missing"),
        (with(""), "contact = { lookup = \"dept\", value = \"v\" }\n", "missing-key", 21, "`map.contact.from` is missing"),
        (
            with(""),
            "contact = { from = [\"x\", \"y\"], lookup = \"dept\", value = \"v\" }\n",
            "key-length",
            21,
            "2 values for a key of 1 column",
        ),
        (
            "[joins.sl]\ntable = \"zd_sl\"\nkey = \"bjh\"\n".to_owned(),
            "contact = { from = \"x\", lookup = \"sl\", value = \"v\" }\n",
            "unknown-lookup",
            21,
            "`sl` is no lookup",
        ),
    ] {
        let problems = directory(&joins, more).expect_err(&joins);
        let text = problems.render(false);
        let at = |problem: &&guitong_schemas::contract::Problem| {
            let place = problem.excerpt.as_ref().map(|excerpt| excerpt.place.line);
            problem.code == code && place == Some(line) && problem.file == "resources/case.toml"
        };
        assert!(problems.list.iter().any(|problem| at(&problem)) && text.contains(part), "{joins}{more}{code} {line}\n{text}");
    }
}

/// A directory of one resource of cases; `details` stands at its line 7, `more` at the end of its map, in line 25.
fn cases(details: &str, more: &str) -> Result<Directory, Problems> {
    const MAP: &str = "\n[map]\ncase_no = \"bjh\"\nitem_basic_code = \"a\"\nitem_impl_code = \"b\"\nitem_name = \"c\"\ndivision = \"d\"\n\
                       dept_name = \"e\"\ndept_uscc = \"f\"\napplicant_kind = \"g\"\napplicant_name = \"h\"\napplicant_doc_type = \"i\"\n\
                       applicant_doc_no = \"j\"\nreceived_at = \"k\"\nstatus = \"l\"\n";
    written(&HEAD.replace("LegalEntity", "ServiceCase"), details, &format!("{MAP}{more}"))
}

/// Steps of a case, in the lines 7 to 10.
const STEPS: &str = "[details.steps]\ntable = \"zd_hj\"\nkey = \"bjh\"\norder_by = [\"xh\", \"sj\"]\n";

#[test]
fn details_become_what_they_declare() {
    let steps = format!("{STEPS}where = \"row.zt != '0'\"\n");
    let more = "steps = { details = \"steps\", item = { name = \"hjmc\", ended = { from = \"sj\", format = \"yyyyMMdd\" } } }\n\
                finished_at = { details = \"steps\", of = \"row.hjmc == '办结'\", from = \"sj\" }\n\
                accepted_at = { details = \"steps\", of = \"first\", from = \"sj\" }\n";
    let directory = cases(&steps, more).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let resource = directory.resources.values().next().unwrap();
    let declared = &resource.joins["steps"];
    assert_eq!((declared.kind, &declared.from), (JoinKind::Details, &vec!["bjh".to_owned()]));
    assert_eq!(
        (declared.order.as_slice(), declared.condition.as_deref()),
        (&["xh".to_owned(), "sj".to_owned()][..], Some("row.zt != '0'"))
    );
    let ValueSource::Items(Items::Details { details, members }) = &resource.map["steps"].value else { panic!("no items") };
    assert_eq!((details.as_str(), members.len()), ("steps", 2));
    let which = |field: &str| resource.map[field].row.as_ref().map(|row| row.which.clone());
    assert_eq!(which("finished_at"), Some(Which::When("row.hjmc == '办结'".to_owned())));
    assert_eq!((which("accepted_at"), which("case_no")), (Some(Which::First), None));
}

#[test]
fn every_mistake_about_details_is_reported_at_its_place() {
    let part = |from: usize, to: usize| {
        STEPS
            .lines()
            .enumerate()
            .filter(|(at, _)| (from..to).contains(at))
            .map(|(_, line)| format!("{line}\n"))
            .collect::<String>()
    };
    let item = "steps = { details = \"steps\", item = { name = \"hjmc\" } }\n";
    for (details, more, code, line, part) in [
        (part(0, 3), item, "missing-key", 7, "`order_by` is missing"),
        (part(0, 3), item, "missing-key", 7, "rows of a table have no order of their own"),
        (part(0, 2), item, "missing-key", 7, "`details.steps.key` is missing"),
        (format!("{STEPS}newest_by = \"sj\"\n"), item, "unknown-key", 11, "newest_by"),
        (format!("{STEPS}where = \"'a'\"\n"), item, "wrong-type", 11, "must be true or false"),
        (format!("{STEPS}where = \"row.zt ==\"\n"), item, "expression", 11, ""),
        (STEPS.replace("zd_hj", "zd_bm") + "where = \"row.mm == ''\"\n", item, "excluded-column", 11, "`mm` is excluded"),
        (
            STEPS.replace("zd_hj", "zd_bm"),
            "steps = { details = \"steps\", item = { name = \"mm\" } }\n",
            "excluded-column",
            26,
            "`mm` is excluded",
        ),
        (
            STEPS.to_owned(),
            "steps = { details = \"step\", item = { name = \"hjmc\" } }\n",
            "unknown-details",
            26,
            "did you mean `steps`",
        ),
        (
            STEPS.to_owned(),
            "steps = { details = \"steps\", item = { nam = \"hjmc\" } }\n",
            "unknown-field",
            26,
            "did you mean `name`",
        ),
        (STEPS.to_owned(), "steps = { item = { name = \"hjmc\" } }\n", "missing-key", 26, "where the items come from"),
        (STEPS.to_owned(), "accepted_at = { details = \"steps\", from = \"sj\" }\n", "missing-key", 26, "which of the rows"),
        (STEPS.to_owned(), "accepted_at = { of = \"last\", from = \"sj\" }\n", "missing-key", 26, "of which rows one is meant"),
        (
            STEPS.to_owned(),
            "accepted_at = { details = \"steps\", of = \"lst\", from = \"sj\" }\n",
            "bad-value",
            26,
            "did you mean `last`",
        ),
        (
            STEPS.to_owned(),
            "accepted_at = { details = \"steps\", of = \"every\", from = \"sj\" }\n",
            "bad-option",
            26,
            "`accepted_at` (受理时间) holds one",
        ),
        (STEPS.to_owned(), "accepted_at = \"steps.sj\"\n", "several-rows", 26, "`steps` has several rows"),
        (
            STEPS.replace("[details", "[joins").replace("order_by = [\"xh\", \"sj\"]\n", ""),
            item,
            "unknown-details",
            25,
            "has one row, not several",
        ),
        (
            format!("{STEPS}[lookups.dept]\ntable = \"zd_bm\"\nkey = \"bm\"\nfrom = \"bm\"\n"),
            "steps = { details = \"steps\", item = { name = \"dept.mc\" } }\n",
            "several-rows",
            30,
            "not to each row of `steps`",
        ),
    ] {
        let problems = cases(&details, more).expect_err(more);
        let text = problems.render(false);
        let at = |problem: &&guitong_schemas::contract::Problem| {
            let place = problem.excerpt.as_ref().map(|excerpt| excerpt.place.line);
            problem.code == code && place == Some(line) && problem.file == "resources/case.toml"
        };
        assert!(problems.list.iter().any(|problem| at(&problem)) && text.contains(part), "{details}{more}{code} {line}\n{text}");
    }
}

#[test]
fn a_group_becomes_what_it_declares() {
    let more = "steps = { details = \"group\", item = { name = \"hjmc\" } }\naccepted_at = { of = \"first\", from = \"sj\" }\n";
    let group = "[group]\nby = [\"bjh\", \"nd\"]\norder_by = \"sj\"\nwhere = \"row.zt != '0'\"\n";
    let directory = cases(group, more).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let resource = directory.resources.values().next().unwrap();
    let declared = &resource.joins["group"];
    assert_eq!((declared.kind, &declared.table), (JoinKind::Group, &resource.table));
    assert_eq!((declared.key.len(), declared.order.len(), declared.condition.is_some()), (2, 1, true));
    let row = resource.map["accepted_at"].row.clone().unwrap();
    assert_eq!((row.details.as_str(), row.which), ("group", Which::First));

    for (group, more, code, line, part) in [
        ("[group]\norder_by = \"sj\"\n", "", "missing-key", 7, "`group.by` is missing"),
        ("[group]\nby = \"bjh\"\n", "", "missing-key", 7, "rows of a table have no order of their own"),
        ("[group]\nby = \"bjh\"\norder_by = \"sj\"\nkey = \"x\"\n", "", "unknown-key", 10, "unknown key `key` in `group`"),
        (
            "[group]\nby = \"bjh\"\norder_by = \"sj\"\n",
            "accepted_at = \"group.sj\"\n",
            "several-rows",
            25,
            "`group` has several rows",
        ),
        (
            "[group]\nby = \"bjh\"\norder_by = \"sj\"\n[details.group]\ntable = \"zd_hj\"\nkey = \"bjh\"\norder_by = \"sj\"\n",
            "",
            "duplicate",
            10,
            "the resource's own rows",
        ),
        ("", "steps = { details = \"group\", item = { name = \"hjmc\" } }\n", "unknown-details", 22, "no details `group`"),
    ] {
        let problems = cases(group, more).expect_err(group);
        let text = problems.render(false);
        let at = |problem: &&guitong_schemas::contract::Problem| {
            let place = problem.excerpt.as_ref().map(|excerpt| excerpt.place.line);
            problem.code == code && place == Some(line) && problem.file == "resources/case.toml"
        };
        assert!(problems.list.iter().any(|problem| at(&problem)) && text.contains(part), "{group}{more}{code} {line}\n{text}");
    }
}

#[test]
fn a_cycle_is_named_with_its_way() {
    let joins = "[joins.a]\ntable = \"zd_a\"\nkey = \"id\"\nfrom = \"b.x\"\n\
                 [lookups.b]\ntable = \"zd_b\"\nkey = \"id\"\nfrom = \"c.y\"\n\
                 [lookups.c]\ntable = \"zd_c\"\nkey = \"id\"\nfrom = \"a.z\"\n\
                 [lookups.d]\ntable = \"zd_d\"\nkey = \"id\"\nfrom = \"a.z\"\n\
                 [joins.e]\ntable = \"zd_e\"\nkey = \"id\"\nfrom = \"e.id\"\n";
    let problems = directory(joins, "").expect_err("a cycle");
    let cycles: Vec<_> = problems.list.iter().filter(|problem| problem.code == "cycle").collect();
    let found: Vec<_> = cycles
        .iter()
        .map(|problem| (problem.message.as_str(), problem.excerpt.as_ref().map_or(0, |excerpt| excerpt.place.line)))
        .collect();
    assert_eq!(
        found,
        [
            ("`a` needs itself: a <- b <- c <- a", 7),
            ("`b` needs itself: b <- c <- a <- b", 11),
            ("`c` needs itself: c <- a <- b <- c", 15),
            ("`e` needs itself: e <- e", 23),
        ],
        "{}",
        problems.render(false)
    );
}
