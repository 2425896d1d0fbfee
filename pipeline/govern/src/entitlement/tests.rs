use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_schemas::avro::form::Names;
use guitong_schemas::contract::resource::OnChange;
use guitong_schemas::contract::subscription::Approval;
use guitong_schemas::contract::{Secret, Sharing, SinkConfig};
use guitong_schemas::standard::{FieldKind, Grade, KeySource, Standard, Step};
use guitong_schemas::table::TableName;
use jiff::civil::date;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

const ENTITIES: [&str; 6] =
    ["NaturalPerson", "LegalEntity", "InvestmentProject", "PublicResourceTransaction", "CreditRecord", "ServiceCase"];
const MASKS: [Mask; 9] =
    [Mask::None, Mask::Name, Mask::Identifier, Mask::Phone, Mask::Card, Mask::Address, Mask::Year, Mask::Hash, Mask::Drop];

fn entity(name: &str) -> Arc<Entity> {
    Arc::clone(Standard::builtin().entity(name).unwrap())
}

fn zone() -> TimeZone {
    TimeZone::get("Asia/Shanghai").unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn resource(entity: &str, sharing: Sharing) -> Resource {
    Resource {
        name: name("enterprise"),
        code: "3450010102/000017".into(),
        title: "企业登记基本信息".into(),
        system: name("licensing"),
        table: TableName::new("public", "qy_jbxx"),
        raw_topic: "raw.licensing.public.qy_jbxx".into(),
        names: Names::Escaped,
        entity: entity.into(),
        sharing,
        condition: None,
        map: BTreeMap::new(),
        joins: BTreeMap::new(),
        not_provided: BTreeMap::new(),
        rules: Vec::new(),
        quality: guitong_schemas::contract::Quality::usual(None),
        revision: 1,
        on_change: OnChange::default(),
        publish_unchanged: false,
    }
}

fn subscription(fields: &[&str]) -> Subscription {
    Subscription {
        name: name("credit"),
        subscriber: name("credit-office"),
        resource: name("enterprise"),
        purpose: "test".into(),
        approval: None,
        fields: fields.iter().map(|&field| field.into()).collect(),
        condition: None,
        unchanged: false,
        masks: BTreeMap::new(),
        sink: SinkConfig::Sqlite { path: "x.db".into(), table: "t".into() },
        table: guitong_schemas::contract::SinkTable::default(),
        secret: Some(Secret::new("s3cret".into())),
    }
}

fn compile(subscription: &Subscription, of: &str) -> Entitlement {
    Entitlement::compile(subscription, &resource(of, Sharing::Unconditional), &entity(of), &zone()).unwrap()
}

fn text(value: &str) -> StandardValue<'_> {
    StandardValue::Text(value.into())
}

/// A record with the values given by name, everything else null; the key is that of the values.
fn record<'a>(entity: &Entity, values: &[(&str, StandardValue<'a>)]) -> (Vec<StandardValue<'a>>, Vec<StandardValue<'a>>) {
    let of = |field: &str| values.iter().find(|(name, _)| *name == field).map(|(_, value)| value.clone()).unwrap_or_default();
    let fields: Vec<_> = entity.fields.iter().map(|field| of(&field.name)).collect();
    let key = entity.key_values(&fields, "licensing").map(|part| StandardValue::Text(part.into_owned().into())).collect();
    (key, fields)
}

fn decide<'a>(entitlement: &Entitlement, values: &[(&str, StandardValue<'a>)]) -> Decision<'a> {
    let (key, fields) = record(entitlement.entity(), values);
    entitlement.decide(Timestamp::UNIX_EPOCH, Record { key: &key, fields: Some(&fields), source_us: 1_763_000_000_000_000 })
}

fn cells(decision: Decision<'_>) -> Vec<String> {
    match decision {
        Decision::Deliver(row) => row.cells.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_granted_fields_go_in_the_order_of_the_entity() {
    let entitlement = compile(&subscription(&["name", "uscc"]), "LegalEntity");
    let names: Vec<_> = entitlement.columns().iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["uscc", "name"]);
    let values = [("uscc", text("91450100PDY00001X0")), ("name", text("测试公司")), ("legal_rep_name", text("张三"))];
    assert_eq!(cells(decide(&entitlement, &values)), ["91450100PDY00001X0", "测试公司"]);
    assert_eq!(*entitlement.key(), KeyForm::Clear(vec![0]));
}

#[test]
fn grades_mask_unless_the_clear_value_is_granted() {
    let fields = ["uscc", "contact", "phone", "legal_rep_doc_no"];
    let values = [
        ("uscc", text("u")),
        ("contact", text("欧阳测试")),
        ("phone", text("16000000001")),
        ("legal_rep_doc_no", text("450102199001019997")),
    ];
    let masked = cells(decide(&compile(&subscription(&fields), "LegalEntity"), &values));
    assert_eq!(masked, ["u", "450102********9997", "欧阳**", "160****0001"]);
    let mut granted = subscription(&fields);
    granted.masks = BTreeMap::from([("phone".into(), Mask::None), ("contact".into(), Mask::Drop)]);
    assert_eq!(cells(decide(&compile(&granted, "LegalEntity"), &values)), ["u", "450102********9997", "", "16000000001"]);
}

#[test]
fn a_field_is_masked_where_the_record_is_about_a_person() {
    let entitlement = compile(&subscription(&["winner_name", "winner_kind"]), "PublicResourceTransaction");
    let of = |kind| cells(decide(&entitlement, &[("winner_name", text("张三丰")), ("winner_kind", kind)]));
    assert_eq!(of(text("1")), ["张三丰", "1"]);
    assert_eq!(of(text("2")), ["张**", "2"]);
    assert_eq!(of(StandardValue::Null), ["张**", ""], "a record that does not say is treated as a person's");
}

#[test]
fn a_childs_record_is_of_the_highest_grade_whole() {
    let entitlement = compile(&subscription(&["name", "sex", "birth_date"]), "NaturalPerson");
    let of = |born| {
        cells(decide(&entitlement, &[("name", text("张三")), ("sex", text("1")), ("birth_date", StandardValue::Date(born))]))
    };
    assert_eq!(of(7_305), ["张*", "1", "1990"]);
    assert_eq!(of(18_000), ["张*", "", "2019"]);
}

#[test]
fn rows_are_keyed_by_a_hash_where_the_key_is_not_wholly_granted_in_the_clear() {
    let key = |fields: &[&str], masks: &[(&str, Mask)], of: &str| {
        let mut subscription = subscription(fields);
        subscription.masks = masks.iter().map(|(field, mask)| ((*field).into(), *mask)).collect();
        compile(&subscription, of).key().clone()
    };
    assert_eq!(key(&["name"], &[], "LegalEntity"), KeyForm::Hashed);
    assert_eq!(key(&["uscc"], &[("uscc", Mask::Identifier)], "LegalEntity"), KeyForm::Hashed);
    assert_eq!(key(&["id_doc_type", "id_doc_no"], &[], "NaturalPerson"), KeyForm::Hashed);
    let clear = [("id_doc_no", Mask::None), ("id_doc_type", Mask::None)];
    assert_eq!(key(&["id_doc_type", "id_doc_no"], &clear, "NaturalPerson"), KeyForm::Clear(vec![0, 1]));
    // `subject` is made of five fields; without all of them it would tell one that is not granted.
    assert_eq!(key(&["record_kind", "doc_no", "authority_uscc", "uscc"], &[], "CreditRecord"), KeyForm::Hashed);
    // The system's name is nobody's secret, and no field: it becomes a column.
    assert_eq!(key(&["case_no"], &[], "ServiceCase"), KeyForm::Clear(vec![1, 0]));

    let entitlement = compile(&subscription(&["name"]), "LegalEntity");
    let (key, fields) = record(entitlement.entity(), &[("uscc", text("91450100PDY00001X0")), ("name", text("测试公司"))]);
    let at = |fields| entitlement.decide(Timestamp::UNIX_EPOCH, Record { key: &key, fields, source_us: 0 });
    let (Decision::Deliver(row), Decision::Delete(deleted, Gone::Deleted)) = (at(Some(&fields)), at(None)) else { panic!() };
    assert_eq!(row.key, deleted);
    assert_eq!((row.key.id.len(), row.key.clear.len()), (16, 0));
}

#[test]
fn a_row_that_does_not_fulfil_the_condition_is_a_delete() {
    let mut subscription = subscription(&["uscc"]);
    subscription.condition = Some("reg_address_division.startsWith('4501')".into());
    let entitlement = compile(&subscription, "LegalEntity");
    let of = |division| decide(&entitlement, &[("uscc", text("u")), ("reg_address_division", division)]);
    assert!(matches!(of(text("450102")), Decision::Deliver(_)));
    assert!(matches!(of(text("450202")), Decision::Delete(_, Gone::NotGranted)));
    assert!(matches!(of(StandardValue::Null), Decision::Delete(_, Gone::Unjudged(EvaluationError::Type))));
}

#[test]
fn sharing_type_approval_and_dates_are_kept_in_the_exchanges_zone() {
    let conditional = || Sharing::Conditional { condition: "…".into() };
    let standing = |approval: Option<Approval>, sharing, now: &str| {
        let mut subscription = subscription(&["uscc"]);
        subscription.approval = approval;
        let entitlement =
            Entitlement::compile(&subscription, &resource("LegalEntity", sharing), &entity("LegalEntity"), &zone()).unwrap();
        let now = now.parse().unwrap();
        let standing = entitlement.standing(now);
        let key = [text("u")];
        let decided = entitlement.decide(now, Record { key: &key, fields: None, source_us: 0 });
        assert_eq!(matches!(decided, Decision::Stopped(_)), matches!(standing, Standing::Stopped(_)));
        standing
    };
    let approval = |from| Some(Approval { number: "桂数共〔2026〕18号".into(), from, until: date(2027, 12, 31) });
    let end = "2027-12-31T16:00:00Z".parse().unwrap();
    assert_eq!(
        standing(None, Sharing::Refused { basis: "…".into() }, "2026-01-01T00:00Z"),
        Standing::Stopped(Stop::Refused(Refusal::NotShared))
    );
    assert_eq!(standing(None, conditional(), "2026-01-01T00:00Z"), Standing::Stopped(Stop::Refused(Refusal::NoApproval)));
    assert_eq!(standing(None, Sharing::Unconditional, "2026-01-01T00:00Z"), Standing::Open { until: None });
    assert_eq!(standing(approval(None), conditional(), "2027-12-31T15:59:59Z"), Standing::Open { until: Some(end) });
    assert_eq!(standing(approval(None), conditional(), "2027-12-31T16:00:00Z"), Standing::Stopped(Stop::Expired { since: end }));
    let from = "2026-06-30T16:00:00Z".parse().unwrap();
    let begun = approval(Some(date(2026, 7, 1)));
    assert_eq!(standing(begun.clone(), conditional(), "2026-06-30T15:59:59Z"), Standing::Stopped(Stop::NotYet { from }));
    assert_eq!(standing(begun, Sharing::Unconditional, "2026-06-30T16:00:00Z"), Standing::Open { until: Some(end) });
}

#[test]
fn the_fingerprint_changes_with_what_would_be_delivered() {
    let base = subscription(&["uscc", "name"]);
    let print = |subscription: &Subscription| compile(subscription, "LegalEntity").fingerprint();
    let same = print(&base);
    assert_eq!(print(&base), same);
    let mut extended = base.clone();
    extended.approval = Some(Approval { number: "1".into(), from: None, until: date(2030, 1, 1) });
    assert_eq!(print(&extended), same, "dates change nothing of what is delivered");
    type Alter = fn(&mut Subscription);
    let changes: [Alter; 4] = [
        |s| s.fields = vec!["uscc".into()],
        |s| s.masks = BTreeMap::from([("name".into(), Mask::Name)]),
        |s| s.condition = Some("status == '1'".into()),
        |s| s.secret = Some(Secret::new("other".into())),
    ];
    for change in changes {
        let mut changed = base.clone();
        change(&mut changed);
        assert_ne!(print(&changed), same);
    }
}

/// An entity whose schema grades a field otherwise takes back what was clear before.
#[test]
fn the_fingerprint_changes_with_how_values_are_graded() {
    let print = |entity: &Entity, masks: &[(&str, Mask)]| {
        let mut granted = subscription(&["uscc", "name", "phone"]);
        granted.masks = masks.iter().map(|(field, mask)| ((*field).to_owned(), *mask)).collect();
        let resource = resource("LegalEntity", Sharing::Unconditional);
        Entitlement::compile(&granted, &resource, &Arc::new(entity.clone()), &zone()).unwrap().fingerprint()
    };
    let plain = &*entity("LegalEntity");
    type Alter = fn(&mut guitong_schemas::standard::EntityField);
    let changes: [Alter; 2] = [|field| field.grade = Grade::G3, |field| field.grade_person = Some(Grade::G2)];
    for change in changes {
        let mut graded = plain.clone();
        change(graded.fields.iter_mut().find(|field| field.name == "name").unwrap());
        assert_ne!(print(&graded, &[]), print(plain, &[]));
        let masked = [("name", Mask::Name)];
        assert_eq!(print(&graded, &masked), print(plain, &masked), "a declared mask holds at every grade");
        let mut other = plain.clone();
        change(other.fields.iter_mut().find(|field| field.name == "scope").unwrap());
        assert_eq!(print(&other, &[]), print(plain, &[]), "it is not granted");
    }
}

#[test]
fn what_cannot_be_granted_is_an_error_that_names_it() {
    let error = |subscription: &Subscription| {
        let resource = resource("LegalEntity", Sharing::Unconditional);
        Entitlement::compile(subscription, &resource, &entity("LegalEntity"), &zone()).unwrap_err()
    };
    assert!(matches!(error(&subscription(&["usc"])), EntitlementError::UnknownField { field, .. } if field == "usc"));
    let mut masked = subscription(&["uscc"]);
    masked.masks = BTreeMap::from([("phone".into(), Mask::None)]);
    assert!(matches!(error(&masked), EntitlementError::MaskOfUngranted { field, .. } if field == "phone"));
    let mut keyless = subscription(&["name"]);
    keyless.secret = None;
    assert!(matches!(error(&keyless), EntitlementError::NoSecret { .. }));
}

/// A value that names its field and cannot come from anywhere else.
fn canary(kind: &FieldKind, at: usize) -> (StandardValue<'static>, Option<String>) {
    let mark = format!("鸟{at:03}号标记甲乙丙丁");
    let value = match kind {
        FieldKind::Date => return (StandardValue::Date(10_000 + at as i32), None),
        FieldKind::Time => return (StandardValue::Time(1_600_000_000_000_000 + at as i64), None),
        FieldKind::Int => return (StandardValue::Int(7_700_000 + at as i64), Some((7_700_000 + at).to_string())),
        FieldKind::Decimal { scale, .. } => {
            let value = StandardValue::Decimal { unscaled: 88_800_000_000 + at as i128, scale: *scale };
            let mark = value.to_string();
            return (value, Some(mark));
        }
        FieldKind::Codes(_) => StandardValue::TextList(vec![mark.clone().into()]),
        FieldKind::Steps => StandardValue::Steps(vec![Step { handler: Some(mark.clone()), ..Step::default() }]),
        _ => StandardValue::Text(mark.clone().into()),
    };
    (value, Some(mark))
}

/// Everything a sink could write of a decision.
fn leaving(decision: &Decision<'_>) -> String {
    let key = |key: &RowKey<'_>| format!("{} {:?}", String::from_utf8_lossy(&key.id), key.clear);
    match decision {
        Decision::Deliver(row) => format!("{} {:?}", key(&row.key), row.cells),
        Decision::Delete(gone, _) => key(gone),
        Decision::Stopped(stop) => stop.to_string(),
    }
}

/// No value of a field that is not granted in the clear is in anything that leaves, whatever the policy and the record.
#[test]
fn no_ungranted_value_leaves() {
    let mut runner = TestRunner::new(Config { cases: 2_000, ..Config::default() });
    let policy = (0..ENTITIES.len(), any::<u64>(), prop::collection::vec((any::<bool>(), prop::option::of(0..MASKS.len())), 64));
    let policy = (policy, 0..4_u8, any::<bool>(), prop::option::of(0..3_usize));
    runner
        .run(&policy, |((which, nulls, choices), about, deleted, condition)| {
            let entity = entity(ENTITIES[which]);
            let mut subscription = subscription(&[]);
            for (field, (granted, mask)) in entity.fields.iter().zip(&choices) {
                if *granted {
                    subscription.fields.push(field.name.clone());
                    subscription.masks.extend(mask.map(|at| (field.name.clone(), MASKS[at])));
                }
            }
            let texts: Vec<_> = entity.fields.iter().filter(|field| matches!(field.kind, FieldKind::Code(_))).collect();
            subscription.condition = condition.and_then(|at| Some(format!("{}.contains('9')", texts.get(at)?.name)));
            let resource = resource(&entity.name, Sharing::Unconditional);
            let entitlement = Entitlement::compile(&subscription, &resource, &entity, &zone()).unwrap();

            let mut marks = vec![None; entity.fields.len()];
            let mut fields = vec![StandardValue::Null; entity.fields.len()];
            for (at, field) in entity.fields.iter().enumerate() {
                if field.in_key || nulls >> (at % 64) & 1 == 0 {
                    (fields[at], marks[at]) = canary(&field.kind, at);
                }
            }
            // Whose record it is: an organisation's, a person's, one that does not say, a child's.
            for (kind, organisation, person) in
                [("subject_kind", "1", "2"), ("winner_kind", "1", "2"), ("applicant_kind", "2", "1")]
            {
                if let Some(field) = entity.field(kind) {
                    let value = [Some(organisation), Some(person), None, Some(person)][usize::from(about)];
                    fields[field.index()] = value.map_or(StandardValue::Null, |value| StandardValue::Text(value.into()));
                    marks[field.index()] = None;
                }
            }
            if let Some(birth) = entity.birth {
                fields[birth] = StandardValue::Date(if about == 3 { 19_000 } else { 7_305 });
            }
            let key: Vec<_> =
                entity.key_values(&fields, "licensing").map(|part| StandardValue::Text(part.into_owned().into())).collect();
            let record = Record { key: &key, fields: (!deleted).then_some(&fields[..]), source_us: 1_763_000_000_000_000 };
            let decision = entitlement.decide(Timestamp::UNIX_EPOCH, record);
            let out = leaving(&decision);
            // What it does not look at need not be there.
            let reads = entitlement.reads();
            let seen = fields.iter().zip(&*reads).map(|(value, read)| if *read { value.clone() } else { StandardValue::Null });
            let seen: Vec<_> = seen.collect();
            let cut = Record { fields: (!deleted).then_some(&seen[..]), ..record };
            prop_assert_eq!(&entitlement.decide(Timestamp::UNIX_EPOCH, cut), &decision);

            // What may be seen, told without the code under test: a field that is listed, and whose mask at its grade is none.
            let clock = Clock::at(record.source_us, Zone::shanghai());
            for (at, field) in entity.fields.iter().enumerate() {
                let Some(mark) = &marks[at] else { continue };
                let listed = subscription.fields.contains(&field.name);
                let grade = entity.grade(at, &fields, &clock);
                let mask = subscription.masks.get(&field.name).copied().unwrap_or_else(|| field.default_mask(grade));
                let clear = listed && mask == Mask::None;
                prop_assert!(clear || !out.contains(mark.as_str()), "{}.{} leaves in {out}", entity.name, field.name);
                if clear && matches!(decision, Decision::Deliver(_)) {
                    prop_assert!(
                        out.contains(mark.as_str()) || matches!(field.kind, FieldKind::Decimal { .. }),
                        "{} is kept back",
                        field.name
                    );
                }
            }
            let hashed = matches!(entitlement.key(), KeyForm::Hashed);
            let made_of = |source: &KeySource| match source {
                KeySource::Fields(from) => from.clone(),
                KeySource::System => vec![],
            };
            let all_listed = entity
                .key
                .iter()
                .flat_map(|part| made_of(&part.source))
                .all(|at| subscription.fields.contains(&entity.fields[at].name));
            prop_assert!(hashed || all_listed);
            Ok(())
        })
        .unwrap();
}
