//! Rules that a resource switches: findings weigh otherwise once a record has been checked, and bounds that are off are lifted.

use std::sync::Arc;

use guitong_schemas::contract::RuleSwitch;
use guitong_schemas::contract::rules::Weight;
use guitong_schemas::standard::{Entity, Finding, Level, Rule};

/// The switches of one resource; mostly none.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    /// Those for one field come before those for all.
    list: Vec<Switch>,
}

#[derive(Debug)]
struct Switch {
    rule: Rule,
    /// Index in the entity.
    field: Option<u16>,
    level: Level,
}

impl Switches {
    /// Compiles a resource's switches; where a bound on dates is off, `entity` becomes a copy without it, so the date is kept.
    pub(crate) fn compile(switches: &[RuleSwitch], entity: &mut Arc<Entity>) -> Self {
        let mut list: Vec<Switch> = Vec::with_capacity(switches.len());
        for RuleSwitch { rule, field, weight, .. } in switches {
            let index = field.as_ref().and_then(|name| entity.field(name)).map(|field| field.index());
            if field.is_some() != index.is_some() {
                continue;
            }
            let level = match weight {
                Weight::Off => Level::Note,
                Weight::Warning => Level::Warning,
                Weight::Error => Level::Error,
            };
            list.push(Switch { rule: *rule, field: index.and_then(|index| u16::try_from(index).ok()), level });
        }
        list.sort_by_key(|switch| switch.field.is_none());
        let switches = Self { list };
        for bound in Rule::ALL.iter().copied().filter(|rule| rule.is_bound()) {
            switches.lift(bound, entity);
        }
        switches
    }

    fn lift(&self, bound: Rule, entity: &mut Arc<Entity>) {
        if self.list.iter().all(|switch| switch.rule != bound) {
            return;
        }
        for (index, field) in (0_u16..).zip(&mut Arc::make_mut(entity).fields) {
            match self.level(bound, index) {
                Some(Level::Note) if bound == Rule::DateInFuture => field.past_only = false,
                Some(Level::Note) => field.not_before = None,
                _ => {}
            }
        }
    }

    /// What the rule weighs in this field, where that is switched.
    fn level(&self, rule: Rule, field: u16) -> Option<Level> {
        let is_meant = |switch: &&Switch| switch.rule == rule && switch.field.is_none_or(|only| only == field);
        self.list.iter().find(is_meant).map(|switch| switch.level)
    }

    /// Weighs the findings of one record. An error in a field of the entity's key stays one: without it there is no record.
    #[inline]
    pub(crate) fn apply(&self, entity: &Entity, findings: &mut [Finding]) {
        if self.list.is_empty() {
            return;
        }
        for finding in findings {
            let is_of_key = || entity.fields.get(usize::from(finding.field)).is_none_or(|field| field.in_key);
            if finding.level == Level::Error && is_of_key() {
                continue;
            }
            if let Some(level) = self.level(finding.rule, finding.field) {
                finding.level = level;
            }
        }
    }

    /// Whether the mark of a key that several rows claim is left out.
    pub(crate) fn hides(&self, rule: Rule) -> bool {
        self.list.iter().any(|switch| switch.rule == rule && switch.field.is_none() && switch.level == Level::Note)
    }
}

#[cfg(test)]
mod tests {
    use guitong_schemas::avro::{DecodePlan, Value, frame};
    use guitong_schemas::change::Operation;
    use guitong_schemas::contract::mapping::ValueSource;
    use guitong_schemas::contract::rules::Weight;
    use guitong_schemas::contract::{Resource, RuleSwitch};
    use guitong_schemas::standard::{Rule, Standard, Zone};

    use crate::fixtures::{Source, resource, uscc};
    use crate::trial::{Outcome, Trial};

    /// The record and its quality, or what was broken.
    type Verdict = Result<(Vec<u8>, String), Vec<String>>;

    fn switch(field: Option<&str>, rule: Rule, weight: Weight) -> RuleSwitch {
        RuleSwitch { rule, field: field.map(str::to_owned), weight, reason: "试点".to_owned() }
    }

    fn verdict(resource: &Resource, cells: &[(&str, &str)]) -> Verdict {
        let columns: Vec<&str> = cells.iter().map(|(column, _)| *column).collect();
        let texts: Vec<Option<&str>> = std::iter::once("1").chain(cells.iter().map(|(_, text)| *text)).map(Some).collect();
        let source = Source::of_texts(resource, &columns);
        let schema = source.plan.value_schema().expect("Avro");
        let trial = Trial::compile(resource, Standard::builtin(), Zone::shanghai(), schema).expect("compiles");
        let mut framed = Vec::new();
        frame::write(3, &mut framed);
        framed.extend(source.event(Operation::Create, &texts).0);
        let mut last = None;
        trial.run([framed.as_slice()], 9, |outcome| last = Some(outcome)).expect("reads");
        match last.expect("one outcome") {
            Outcome::Records(records) => {
                let quality = String::from_utf8_lossy(&records[0].quality).into_owned();
                Ok((records[0].record.to_vec(), quality))
            }
            Outcome::Rejected(broken) => Err(broken.into_iter().map(|it| format!("{}:{}", it.field, it.rule)).collect()),
            Outcome::Gone => panic!("the row is gone"),
        }
    }

    /// A person with a passport, born in the future; gives the birth date where there is a record.
    fn unborn(rules: &[RuleSwitch]) -> Result<(Option<i64>, String), Vec<String>> {
        let mut person = resource("enterprise");
        let any = person.map["uscc"].clone();
        let column = |name: &str| (name.to_owned(), crate::fixtures::of_column(&any, name));
        person.map = ["id_doc_no", "name", "sex", "birth_date"].map(column).into();
        let mut passport = any.clone();
        passport.value = ValueSource::Constant("414".to_owned());
        person.map.insert("id_doc_type".to_owned(), passport);
        person.entity = "NaturalPerson".to_owned();
        person.rules = rules.to_vec();
        let cells = [("id_doc_no", "G00000001"), ("name", "韦小明"), ("sex", "1"), ("birth_date", "20981231")];
        let (record, quality) = verdict(&person, &cells)?;
        let entity = Standard::builtin().entity("NaturalPerson").expect("an entity");
        let plan = DecodePlan::compile(&entity.schema_json).expect("a schema");
        let values = plan.record(&record[frame::LEN..]).expect("decodes");
        match values[entity.field("birth_date").expect("a field").index()] {
            Value::Int(days) => Ok((Some(days), quality)),
            _ => Ok((None, quality)),
        }
    }

    /// A company, with `changes` of its usual cells; gives its quality where there is a record.
    fn company(rules: &[RuleSwitch], changes: &[(&str, &str)]) -> Result<String, Vec<String>> {
        let code = uscc(1);
        let usual = [
            ("tyshxydm", code.as_str()),
            ("qymc", "南宁甲有限公司"),
            ("fddbr", "韦小明"),
            ("clrq", "20170922"),
            ("djzt", "在营"),
            ("djjg", "南宁市市场监督管理局"),
            ("djjgdm", "450100"),
            ("zs", "南宁市民族大道1号"),
            ("xzqh", "450103"),
            ("zczb", "1"),
        ];
        let mut resource = resource("enterprise");
        resource.map.retain(|_, field| match &field.value {
            ValueSource::Column(column) => usual.iter().any(|(name, _)| name == column),
            _ => true,
        });
        resource.rules = rules.to_vec();
        let changed = |name: &str| changes.iter().find(|(changed, _)| *changed == name).map(|(_, text)| *text);
        verdict(&resource, &usual.map(|(name, text)| (name, changed(name).unwrap_or(text)))).map(|(_, quality)| quality)
    }

    #[test]
    fn a_switched_rule_weighs_what_the_resource_says() {
        let broken = "birth_date:date.in_future";
        let of = |field, weight| switch(field, Rule::DateInFuture, weight);
        // A child has a guardian.
        let kept = (Some(47_116), "guardian_id:field.required".to_owned());
        assert_eq!(unborn(&[]), Err(vec![broken.to_owned()]));
        assert_eq!(unborn(&[of(None, Weight::Off)]), Ok(kept.clone()), "a bound that is off keeps the date");
        assert_eq!(unborn(&[of(Some("birth_date"), Weight::Off)]), Ok(kept));
        assert_eq!(unborn(&[of(Some("birth_date"), Weight::Warning)]), Ok((None, broken.to_owned())));
        assert_eq!(unborn(&[of(Some("death_date"), Weight::Off)]), Err(vec![broken.to_owned()]), "only the named field");
        let both = [of(None, Weight::Error), of(Some("birth_date"), Weight::Warning)];
        assert_eq!(unborn(&both), Ok((None, broken.to_owned())), "what is said of one field goes before what is said of all");
    }

    #[test]
    fn warnings_become_errors_or_nothing_and_the_key_keeps_its_errors() {
        let amount = [("zczb", "很多")];
        let found = "reg_capital:number.form".to_owned();
        assert_eq!(company(&[], &amount), Ok(found.clone()));
        assert_eq!(company(&[switch(None, Rule::NumberForm, Weight::Error)], &amount), Err(vec![found]));
        let elsewhere = [("xzqh", "450202")];
        assert_eq!(company(&[], &elsewhere), Ok("reg_address_division:division.credit_code_differs".to_owned()));
        assert_eq!(company(&[switch(None, Rule::CreditDivisionDiffers, Weight::Off)], &elsewhere), Ok(String::new()));
        let missing = [("qymc", " ")];
        assert_eq!(company(&[], &missing), Err(vec!["name:field.missing".to_owned()]));
        let all = switch(None, Rule::FieldMissing, Weight::Warning);
        assert_eq!(company(std::slice::from_ref(&all), &missing), Ok("name:field.missing".to_owned()));
        assert_eq!(company(&[all], &[("tyshxydm", "")]), Err(vec!["uscc:field.missing".to_owned()]), "a record needs its key");
    }
}
