//! Tables that a resource reads beside its own: what a file declares, and what is said of a wrong one.

#![allow(clippy::unwrap_used, clippy::panic)]

use guitong_schemas::contract::mapping::ValueSource;
use guitong_schemas::contract::resource::Place;
use guitong_schemas::contract::{Directory, Join, JoinKind, Problems, Purpose, load};
use guitong_schemas::table::TableName;

const HEAD: &str = "code = \"3450010102/000001\"\ntitle = \"办件\"\nsystem = \"hall\"\ntable = \"main.bj\"\nentity = \"LegalEntity\"\n\
                    sharing = { type = 3, basis = \"某法第三条\" }\n";
const MAP: &str = "\n[map]\nuscc = \"a\"\nname = \"b\"\nlegal_rep_name = \"c\"\nestablished = \"d\"\nstatus = { const = \"1\" }\n\
                   reg_authority = \"e\"\nreg_authority_code = \"f\"\nreg_address = \"g\"\nreg_address_division = \"h\"\n";

/// A directory of one resource; `joins` stands at its line 7, `more` at the end of its map.
fn directory(joins: &str, more: &str) -> Result<Directory, Problems> {
    let root = tempfile::tempdir().unwrap();
    let system = "title = \"大厅\"\ndepartment = \"hall\"\nkind = \"sqlite\"\npath = \"a.db\"\ntables = [\"main.bj\", \"main.zd_*\"]\n\
                  exclude_columns = [\"main.zd_bm.mm\"]\n";
    let files = [
        ("exchange.toml", "name = \"test\"\ntitle = \"测试\"\n"),
        ("departments/hall.toml", "title = \"大厅\"\ncode = \"11450000PDY00001X0\"\n"),
        ("systems/hall.toml", system),
        ("resources/case.toml", &format!("{HEAD}{joins}{MAP}{more}")),
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
        order: Some("gxsj".into()),
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
