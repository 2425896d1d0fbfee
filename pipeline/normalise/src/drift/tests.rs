//! Histories of one table, event by event: what each of them comes to under each policy.

use std::sync::Arc;

use guitong_schemas::contract::{Name, Resource, Subscription};
use guitong_schemas::standard::{Standard, Zone};
use guitong_schemas::table::ColumnType;
use proptest::prelude::*;

use super::*;
use crate::fixtures::{Source, resource, subscriptions};

/// The quick start's enterprises, of which only these columns are mapped.
fn small() -> Resource {
    let mut resource = resource("enterprise");
    resource.map.retain(|field, _| ["uscc", "established", "contact"].contains(&field.as_str()));
    resource
}

fn compile(resource: &Resource) -> Mapping {
    Mapping::compile(resource, Standard::builtin(), Zone::shanghai()).expect("compiles")
}

/// A table in which `clrq`, the date of establishment, is of `kind`, and the contact is `lxr` or something else.
fn table(clrq: Option<ColumnType>, contact: &str) -> Source {
    let mut columns = vec![("id", ColumnType::Int64), ("tyshxydm", ColumnType::Text)];
    columns.extend(clrq.map(|kind| ("clrq", kind)));
    columns.push((contact, ColumnType::Text));
    Source::new("registration", &small().table, &columns)
}

fn bind(mapping: &Mapping, source: &Source) -> Bound {
    mapping.bind(0, source.plan.value_schema().expect("Avro")).expect("binds")
}

/// Runs events by these tables, which the registry met in this order; gives what is done about each. `backlog`: they are all in
/// the topic before the first is read.
fn run(drift: &mut Drift, policy: OnChange, events: &[&Source], backlog: bool) -> Vec<Option<Handling>> {
    let number = |event: &Source| events.iter().position(|other| std::ptr::eq(*other, event)).map_or(0, |at| at as u32 + 1);
    let events: Vec<(u32, &Source)> = events.iter().map(|event| (number(event), *event)).collect();
    run_numbered(drift, policy, &events, backlog)
}

/// As [`run`], with the numbers that the registry gave to the tables' schemas.
fn run_numbered(drift: &mut Drift, policy: OnChange, events: &[(u32, &Source)], backlog: bool) -> Vec<Option<Handling>> {
    let mapping = compile(&small());
    let (_, last) = events.last().expect("an event");
    let mut fitted: Option<&Source> = None;
    let mut handled = Vec::new();
    for ((schema, event), commit) in events.iter().zip(1..) {
        let (bound, present) = (bind(&mapping, event), bind(&mapping, if backlog { last } else { event }));
        let before = fitted.map(|source| bind(&mapping, source).plan);
        let version = Version { epoch: 1, commit, ..Version::default() };
        let (present, fits) = (Some(&present), before.as_ref());
        let view = &mapping.tables[0];
        let look = Look { view, schema: *schema, bound: &bound, present, fitted: fits, policy, version, at_us: 0 };
        let (deviations, _) = drift.judge(&look);
        if deviations.is_empty() {
            fitted = Some(event);
        }
        handled.push(deviations.iter().map(|deviation| deviation.handling).max());
    }
    handled
}

fn around(resource: Resource, subscriptions: BTreeMap<Name, Arc<Subscription>>) -> Surroundings {
    Surroundings {
        resource: Arc::new(resource),
        subscriptions: tokio::sync::watch::channel(Arc::new(subscriptions)).1,
        time_zone: jiff::tz::TimeZone::get("Asia/Shanghai").expect("known"),
    }
}

#[test]
fn the_policy_decides_about_a_column_that_is_not_as_it_was() {
    use Handling::{Pause, Read, Refuse};
    let (whole, without) = (table(Some(ColumnType::Text), "lxr"), table(None, "lxr"));
    let (date, same) = (table(Some(ColumnType::Date), "lxr"), table(Some(ColumnType::Uuid), "lxr"));
    let (number, wider) = (table(Some(ColumnType::Int32), "lxr"), table(Some(ColumnType::Int64), "lxr"));
    for (events, pause) in [
        (vec![&whole, &without], vec![None, Some(Pause)]),
        (vec![&whole, &date], vec![None, Some(Pause)]),
        (vec![&whole, &date, &whole], vec![None, Some(Pause), None]),
        (vec![&whole, &same], vec![None, None]),
        (vec![&number, &wider, &whole, &number], vec![None, None, None, None]),
        (vec![&whole, &number], vec![None, Some(Pause)]),
        (vec![&without, &whole], vec![Some(Pause), None]),
    ] {
        assert_eq!(run(&mut Drift::default(), OnChange::Pause, &events, false), pause);
        for (policy, instead) in [(OnChange::Quarantine, Refuse), (OnChange::Continue, Read)] {
            let wanted: Vec<_> = pause.iter().map(|handling| handling.map(|_| instead)).collect();
            assert_eq!(run(&mut Drift::default(), policy, &events, false), wanted);
        }
    }
}

#[test]
fn what_is_as_the_mapping_reads_it_again_holds_nothing_up() {
    use Handling::{Pause, Read, Refuse};
    let (whole, without) = (table(Some(ColumnType::Text), "lxr"), table(None, "lxr"));
    let date = table(Some(ColumnType::Date), "lxr");
    for (events, wanted) in [
        (vec![&whole, &without, &whole], vec![None, Some(Refuse), None]),
        (vec![&whole, &without, &without], vec![None, Some(Pause), Some(Pause)]),
        // The mapping was made for the table of now; rows of before are of an earlier form, until the first of now.
        (vec![&without, &whole], vec![Some(Read), None]),
        (vec![&date, &without, &whole, &date, &whole], vec![Some(Read), Some(Read), None, Some(Read), None]),
        (vec![&without, &whole, &date, &whole], vec![Some(Read), None, Some(Refuse), None]),
    ] {
        assert_eq!(run(&mut Drift::default(), OnChange::Pause, &events, true), wanted);
    }
}

#[test]
fn a_row_of_an_earlier_form_is_read_whenever_it_comes() {
    use Handling::{Pause, Read, Refuse};
    let (earlier, now, later) = (table(None, "lxr"), table(Some(ColumnType::Text), "lxr"), table(Some(ColumnType::Date), "lxr"));
    let (earlier, now, later) = ((1, &earlier), (2, &now), (3, &later));
    for policy in [OnChange::Pause, OnChange::Quarantine] {
        // Rows of the first load come beside the stream.
        let handled = run_numbered(&mut Drift::default(), policy, &[now, earlier, now, earlier, now], true);
        assert_eq!(handled, [None, Some(Read), None, Some(Read), None], "{policy:?}");
        let handled = run_numbered(&mut Drift::default(), policy, &[earlier, now, later, earlier, now], true);
        assert_eq!(handled, [Some(Read), None, Some(Refuse), Some(Read), None], "what came later is no earlier form: {policy:?}");
    }
    // Where it is the newest event too, the table may have it so again.
    for (policy, wanted) in [(OnChange::Pause, Pause), (OnChange::Quarantine, Refuse)] {
        let handled = run_numbered(&mut Drift::default(), policy, &[now, earlier, now], false);
        assert_eq!(handled, [None, Some(wanted), None]);
    }
}

#[test]
fn what_happened_is_told_with_whom_it_touches_and_what_to_do() {
    let (whole, renamed) = (table(Some(ColumnType::Text), "lxr"), table(Some(ColumnType::Date), "lxrxm"));
    let mut resource = small();
    resource.on_change = OnChange::Quarantine;
    let (mapping, mut drift) = (compile(&resource), Drift::default());
    run(&mut drift, resource.on_change, &[&whole, &renamed], false);
    let judging = Some("established < '2020'");
    let subscriptions =
        subscriptions("enterprise", &[("a", &["contact"], None), ("b", &["uscc"], None), ("c", &["uscc"], judging)]);
    let around = around(resource, subscriptions);
    let changes = drift.changes(&mapping, &around);
    assert_eq!(drift.away(), 2);
    let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "column `lxr` of main.qy_jbxx is gone since version 1/2/0/0/0 (1970-01-01T08:00:00+08:00), perhaps renamed to \
             `lxrxm`; fields: contact; subscriptions: a; rows changed since are in quarantine, their last good versions stay: \
             change the mapping in resources/enterprise.toml, or bring the column back; then guitong quarantine replay enterprise",
            "column `clrq` of main.qy_jbxx was text and is date since version 1/2/0/0/0 (1970-01-01T08:00:00+08:00); fields: \
             established; subscriptions: c; rows changed since are in quarantine, their last good versions stay: change the \
             mapping in resources/enterprise.toml, or raise `revision` in it to take the new type as it is; then \
             guitong quarantine replay enterprise",
        ]
    );
    assert!(changes[0].chinese().contains("可能改名为“lxrxm”"), "{}", changes[0].chinese());
    let json = serde_json::to_value(&changes[0]).expect("JSON");
    assert_eq!((&json["change"], &json["perhaps"]), (&"gone".into(), &"lxrxm".into()));
}

#[test]
fn a_mapping_that_reads_a_column_otherwise_begins_anew_with_it() {
    let (whole, date) = (table(Some(ColumnType::Text), "lxr"), table(Some(ColumnType::Date), "lxr"));
    let (mut drift, mut resource) = (Drift::default(), small());
    run(&mut drift, OnChange::Pause, &[&whole, &date], false);
    resource.map.get_mut("established").expect("mapped").at.line += 7;
    drift.follow(&compile(&resource));
    assert_eq!(drift.away(), 1, "a line that moved is no change");
    resource.map.get_mut("established").expect("mapped").formats.clear();
    drift.follow(&compile(&resource));
    assert_eq!(drift.away(), 0);
    let mapping = compile(&resource);
    assert!(!drift.is_usual(&mapping.tables[0], &bind(&mapping, &whole)), "the kind is asked for again");
}

#[test]
fn a_column_that_is_gone_is_still_told_of_where_all_begins_anew() {
    use Handling::Pause;
    let (whole, renamed) = (table(Some(ColumnType::Text), "lxr"), table(Some(ColumnType::Date), "lxrxm"));
    let mapping = compile(&small());
    let around = around(small(), BTreeMap::new());
    let told = |drift: &Drift| drift.changes(&mapping, &around).iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut drift = Drift::default();
    run(&mut drift, OnChange::Pause, &[&whole, &renamed], false);
    let before = told(&drift);
    let mut drift = drift.begun_anew();
    assert_eq!(told(&drift), before[..1], "what is of another type is taken as it is");
    assert!(before[0].contains("`lxr` of main.qy_jbxx is gone since version 1/2/0/0/0") && before[0].contains("`lxrxm`"));
    assert_eq!(run(&mut drift, OnChange::Pause, &[&renamed], false), [Some(Pause)]);
    assert_eq!(told(&drift), before[..1]);
    assert_eq!(run(&mut drift, OnChange::Pause, &[&table(Some(ColumnType::Date), "lxr")], false), [None]);
    assert_eq!(drift.away(), 0);
}

#[test]
fn a_column_that_was_gone_where_all_began_anew_is_read_as_it_comes_back() {
    use Handling::{Pause, Read};
    let (whole, without) = (table(Some(ColumnType::Text), "lxr"), table(None, "lxr"));
    let date = table(Some(ColumnType::Date), "lxr");
    for (events, backlog, wanted) in [
        (vec![&date], false, vec![None]),
        (vec![&without, &date], false, vec![Some(Pause), None]),
        // It is back by now: rows without it are of an earlier form.
        (vec![&without, &date], true, vec![Some(Read), None]),
    ] {
        let mut drift = Drift::default();
        run(&mut drift, OnChange::Pause, &[&whole, &without], false);
        assert_eq!(run(&mut drift.begun_anew(), OnChange::Pause, &events, backlog), wanted);
    }
}

proptest! {
    #[test]
    fn what_is_known_reads_back(events in proptest::collection::vec(0_usize..4, 1..8), fitted in any::<Option<u32>>()) {
        let tables = [
            table(Some(ColumnType::Text), "lxr"),
            table(Some(ColumnType::Date), "lxr"),
            table(None, "lxr"),
            table(Some(ColumnType::Decimal { precision: 8, scale: 2 }), "联系人"),
        ];
        let events: Vec<&Source> = events.iter().map(|at| &tables[*at]).collect();
        let mut drift = Drift::default();
        run(&mut drift, OnChange::Continue, &events, false);
        drift.fitted = fitted.map(|schema| (String::new(), schema)).into_iter().collect();
        drift.changed = false;
        let bytes = drift.encode();
        prop_assert_eq!(Drift::decode(&bytes).expect("reads"), drift);
        prop_assert!(Drift::decode(&bytes.slice(..bytes.len() - 1)).is_err());
    }
}
