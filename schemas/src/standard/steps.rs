//! The steps of a service case, from a JSON array.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::clock::Clock;
use super::field::{EntityField, FieldKind, Obligation};
use super::finding::{Remarks, Rule};
use super::options::FieldOptions;
use super::value::{Input, StandardValue, Step};
use super::{characters, date, read, text};

/// Longest name, handler or action of a step, in characters; opinions may be as long as remarks.
const MAX_NAME: usize = 200;
const MAX_OPINION: usize = 4000;

/// Reads `[{"name": …, "handler": …, "started": …, "ended": …, "action": …, "opinion": …}, …]`; members may be missing.
pub(crate) fn read<'a>(
    text: &str,
    field: &EntityField,
    options: &FieldOptions,
    clock: &Clock<'_>,
    remarks: &mut Remarks<'_>,
) -> Result<StandardValue<'a>, Rule> {
    let items: Vec<Map<String, Value>> = serde_json::from_str(text).map_err(|_| Rule::StepsForm)?;
    let mut steps = Vec::with_capacity(items.len());
    for item in &items {
        let mut reader = StepReader { item, field, options, clock, remarks };
        steps.push(Step {
            name: reader.words("name", MAX_NAME)?,
            handler: reader.words("handler", MAX_NAME)?,
            started: reader.time("started")?,
            ended: reader.time("ended")?,
            action: reader.action()?,
            opinion: reader.words("opinion", MAX_OPINION)?,
        });
    }
    Ok(if steps.is_empty() { StandardValue::Null } else { StandardValue::Steps(steps) })
}

impl EntityField {
    /// The members of a nested field's items, as fields of their own whose findings are this field's; none where it has no items.
    #[must_use]
    pub fn members(&self) -> Vec<Self> {
        if !matches!(self.kind, FieldKind::Steps) {
            return Vec::new();
        }
        let actions = FieldKind::Code(Arc::clone(&self.facts.step_action));
        let members = [
            ("name", "环节名称", FieldKind::Text { max: MAX_NAME }),
            ("handler", "经办人", FieldKind::Text { max: MAX_NAME }),
            ("started", "开始时间", FieldKind::Time),
            ("ended", "结束时间", FieldKind::Time),
            ("action", "办理动作", actions),
            ("opinion", "意见", FieldKind::Text { max: MAX_OPINION }),
        ];
        let member = |(name, title, kind): (&str, &str, FieldKind)| Self {
            name: name.to_owned(),
            title_zh: title.to_owned(),
            title_en: name.to_owned(),
            kind,
            obligation: Obligation::Optional,
            when: None,
            range: (None, None),
            not_before: None,
            past_only: false,
            derived: false,
            in_key: false,
            ..self.clone()
        };
        members.map(member).into()
    }
}

impl Step {
    /// A step of the values of [`EntityField::members`], in their order; `None` where all are null.
    #[must_use]
    pub fn of(values: &[StandardValue<'_>]) -> Option<Self> {
        let text = |at: usize| values.get(at).and_then(StandardValue::as_text).map(str::to_owned);
        let time = |at: usize| match values.get(at) {
            Some(StandardValue::Time(micros)) => Some(*micros),
            _ => None,
        };
        let step = Self { name: text(0), handler: text(1), started: time(2), ended: time(3), action: text(4), opinion: text(5) };
        (step != Self::default()).then_some(step)
    }
}

struct StepReader<'s, 'f> {
    item: &'s Map<String, Value>,
    field: &'s EntityField,
    options: &'s FieldOptions,
    clock: &'s Clock<'s>,
    remarks: &'s mut Remarks<'f>,
}

impl StepReader<'_, '_> {
    /// The member's text; `None` where it is missing, null or an empty word.
    fn member(&self, name: &str) -> Result<Option<Cow<'_, str>>, Rule> {
        let text = match self.item.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => Cow::Borrowed(text.as_str()),
            Some(Value::Number(number)) => Cow::Owned(number.to_string()),
            Some(_) => return Err(Rule::StepsForm),
        };
        Ok(Some(text).filter(|text| !characters::is_empty_word(text)))
    }

    fn words(&mut self, name: &str, max: usize) -> Result<Option<String>, Rule> {
        let Some(written) = self.member(name)?.map(Cow::into_owned) else { return Ok(None) };
        Ok(Some(text::text(&written, max, self.remarks)?.into_owned()))
    }

    fn time(&mut self, name: &str) -> Result<Option<i64>, Rule> {
        let Some(written) = self.member(name)?.map(Cow::into_owned) else { return Ok(None) };
        date::time(self.field, Input::Text(&written), self.options, self.clock, self.remarks)
    }

    fn action(&mut self) -> Result<Option<String>, Rule> {
        let Some(written) = self.member("action")?.map(Cow::into_owned) else { return Ok(None) };
        Ok(read::code(&written, &self.field.facts.step_action, self.clock, self.remarks)?.map(Cow::into_owned))
    }
}
