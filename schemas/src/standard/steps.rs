//! The steps of a service case, from a JSON array.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::clock::Clock;
use super::field::EntityField;
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
