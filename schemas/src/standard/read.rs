//! From a source value to a field's canonical value.

use std::borrow::Cow;

use super::clock::Clock;
use super::codes::{Code, CodeList};
use super::field::{EntityField, FieldKind, Obligation};
use super::finding::{Finding, Level, Remarks, Rule};
use super::guard::Guard;
use super::identifier::clean::fold;
use super::identifier::{citizen, credit, numbers, place, project};
use super::options::FieldOptions;
use super::value::{Input, StandardValue};
use super::{amount, characters, date, steps, text};

impl EntityField {
    /// Reads a source value into the field's canonical form.
    ///
    /// Empty values give null without a finding; [`super::Entity::check`] tells whether that may be. A value that is
    /// unreadable, out of its list or fails a check gives null and an error, or a warning where the field is not mandatory or
    /// a rule of the entity can still fill it.
    pub fn read<'a>(
        &'a self,
        input: impl Into<Input<'a>>,
        options: &FieldOptions,
        clock: &Clock<'_>,
        findings: &mut Vec<Finding>,
    ) -> StandardValue<'a> {
        let input = input.into();
        if let Input::Text(text) = input
            && characters::is_empty_word(text)
        {
            return StandardValue::Null;
        }
        let mut remarks = Remarks { field: self.index, findings };
        match self.parse(input, options, clock, &mut remarks) {
            // A text marker or full-width letters can hide an empty word.
            Ok(StandardValue::Text(text)) if characters::is_empty_word(&text) => StandardValue::Null,
            Ok(value) => value,
            Err(rule) => {
                debug_assert!(rule.guards() == Guard::Value || rule.is_bound(), "{rule} leaves no value");
                let must = self.obligation == Obligation::Mandatory && !self.derived;
                remarks.push(if must { Level::Error } else { Level::Warning }, rule);
                StandardValue::Null
            }
        }
    }

    fn parse<'a>(
        &'a self,
        input: Input<'a>,
        options: &FieldOptions,
        clock: &Clock<'_>,
        remarks: &mut Remarks<'_>,
    ) -> Result<StandardValue<'a>, Rule> {
        match &self.kind {
            FieldKind::Date => {
                return Ok(date::date(self, input, options, clock, remarks)?.map_or(StandardValue::Null, StandardValue::Date));
            }
            FieldKind::Time => {
                return Ok(date::time(self, input, options, clock, remarks)?.map_or(StandardValue::Null, StandardValue::Time));
            }
            FieldKind::PartialDate => {
                let read = date::partial(self, input, options, clock, remarks)?;
                return Ok(read.map_or(StandardValue::Null, |text| StandardValue::Text(Cow::Owned(text))));
            }
            FieldKind::Decimal { precision, scale } => return self.decimal(input, options, *precision, *scale, remarks),
            FieldKind::Int => return self.integer(input, remarks),
            _ => {}
        }
        match input {
            Input::Text(text) => self.parse_text(text, options, clock, remarks),
            other => Ok(self.parse_text(&as_text(other), options, clock, remarks)?.into_owned()),
        }
    }

    fn parse_text<'a>(
        &'a self,
        text: &'a str,
        options: &FieldOptions,
        clock: &Clock<'_>,
        remarks: &mut Remarks<'_>,
    ) -> Result<StandardValue<'a>, Rule> {
        let facts = &*self.facts;
        let read = match &self.kind {
            FieldKind::Text { max } | FieldKind::Address { max } => text::text(text, *max, remarks)?,
            FieldKind::Name { max } => text::name(text, *max, remarks)?,
            FieldKind::Phone { max } => numbers::phone(text, *max, remarks)?,
            FieldKind::Identifier { max } => numbers::identifier(text, *max, remarks)?,
            FieldKind::RegistrationNo { max } => {
                let number = numbers::registration(text, *max, remarks)?;
                if citizen::holds_citizen_number(&number, facts, clock) {
                    return Err(Rule::RegistrationCitizen);
                }
                number
            }
            FieldKind::BusinessRegistration => numbers::business_registration(text, remarks)?,
            FieldKind::CitizenId => citizen::citizen_number(text, facts, clock, remarks)?,
            FieldKind::Uscc => credit::credit_code(text, facts, remarks)?,
            FieldKind::OrgCode => credit::organisation_code(text, remarks)?,
            FieldKind::Mobile => numbers::mobile(text, remarks)?,
            FieldKind::BankCard => numbers::bank_card(text, remarks)?,
            FieldKind::ProjectCode => project::project_code(text, facts, remarks)?,
            FieldKind::Division => return nullable(place::division(text, facts, remarks)?),
            FieldKind::Industry => place::industry(text, options.old_edition, facts, remarks)?,
            FieldKind::Education if options.old_edition => {
                return nullable(place::education_1984(text, facts, remarks)?.map(Cow::Owned));
            }
            FieldKind::Education => return nullable(code(text, &facts.education, clock, remarks)?),
            FieldKind::Code(list) => return nullable(code(text, list, clock, remarks)?),
            FieldKind::Codes(list) => return codes(text, list, options.split.as_deref(), clock, remarks),
            FieldKind::Url => text::url(text, remarks)?,
            FieldKind::Steps => return steps::read(text, self, options, clock, remarks),
            // The kinds that `parse` reads from any input.
            FieldKind::Date | FieldKind::PartialDate | FieldKind::Time | FieldKind::Decimal { .. } | FieldKind::Int => {
                return Err(Rule::NumberForm);
            }
        };
        Ok(StandardValue::Text(read))
    }

    fn decimal<'a>(
        &self,
        input: Input<'a>,
        options: &FieldOptions,
        precision: u32,
        scale: u32,
        remarks: &mut Remarks<'_>,
    ) -> Result<StandardValue<'a>, Rule> {
        let number = match input {
            Input::Integer(number) => Some(amount::Number { unscaled: i128::from(number), scale: 0 }),
            Input::Decimal { unscaled, scale } => Some(amount::Number { unscaled, scale }),
            _ => None,
        };
        let unscaled = match (number, input) {
            (Some(number), _) => amount::rescale(number, options.unit, scale, precision, remarks)?,
            (None, Input::Text(text)) => amount::read(text, options.unit, scale, precision, remarks)?,
            _ => return Err(Rule::NumberForm),
        };
        self.in_range(unscaled, scale)?;
        Ok(StandardValue::Decimal { unscaled, scale })
    }

    fn integer<'a>(&self, input: Input<'a>, remarks: &mut Remarks<'_>) -> Result<StandardValue<'a>, Rule> {
        let number = match input {
            Input::Integer(number) => number,
            Input::Text(text) => amount::integer(text, remarks)?,
            Input::Decimal { .. } => amount::integer(&as_text(input), remarks)?,
            _ => return Err(Rule::NumberForm),
        };
        self.in_range(i128::from(number), 0)?;
        Ok(StandardValue::Int(number))
    }
}

fn nullable<'a>(text: Option<Cow<'a, str>>) -> Result<StandardValue<'a>, Rule> {
    Ok(text.map_or(StandardValue::Null, StandardValue::Text))
}

/// A typed value as a text field shows it.
fn as_text(input: Input<'_>) -> String {
    match input {
        Input::Text(text) => text.to_owned(),
        Input::Integer(number) => number.to_string(),
        Input::Boolean(holds) => if holds { "1" } else { "0" }.to_owned(),
        Input::Decimal { unscaled, scale } => StandardValue::Decimal { unscaled, scale }.to_string(),
        Input::Days(days) => StandardValue::Date(days).to_string(),
        Input::Local(micros) => {
            // The text of an instant shows the clock at +08:00; this clock has no zone.
            let shown = StandardValue::Time(micros - 8 * 3_600_000_000).to_string();
            shown.trim_end_matches("+08:00").replace('T', " ")
        }
        Input::Instant(micros) => StandardValue::Time(micros).to_string(),
    }
}

/// A code of a list, by code, name or alias, as it is in force at the event's time; zeros are empty where the list has no such code.
pub(crate) fn code<'a>(
    text: &'a str,
    list: &'a CodeList,
    clock: &Clock<'_>,
    remarks: &mut Remarks<'_>,
) -> Result<Option<Cow<'a, str>>, Rule> {
    let Some(found) = find(text, list, remarks)? else { return Ok(None) };
    if found.history.is_none() {
        return Ok(Some(Cow::Borrowed(&found.code)));
    }
    let (current, rule) = list.in_force(found, clock.today);
    match rule {
        Some(rule @ (Rule::CodeNoSuccessor | Rule::CodeTooEarly)) => remarks.warn(rule),
        Some(rule) => remarks.note(rule),
        None => {}
    }
    Ok(Some(Cow::Borrowed(&current.code)))
}

fn find<'a>(text: &str, list: &'a CodeList, remarks: &mut Remarks<'_>) -> Result<Option<&'a Code>, Rule> {
    if let Some(code) = list.get(text) {
        return Ok(Some(code));
    }
    // A text that begins with a Han character is no code in other letters.
    if matches!(text.as_bytes(), [0xe4..=0xe9, ..])
        && let Some(code) = list.named(text)
    {
        remarks.note(Rule::CodeByName);
        return Ok(Some(code));
    }
    let folded = fold(text)?;
    let upper = folded.to_ascii_uppercase();
    for written in [&*folded, &upper] {
        if let Some(code) = list.get(written) {
            remarks.note(Rule::IdentifierRepaired);
            return Ok(Some(code));
        }
    }
    if folded.bytes().all(|b| b == b'0') {
        return Ok(None);
    }
    // Names keep their own letters: 港澳台居民… may have brackets that folding made half-width.
    let plain = characters::trimmed(text);
    for written in [plain, &folded, &upper] {
        if let Some((code, rule)) = list.find_otherwise(written) {
            remarks.note(rule);
            return Ok(Some(code));
        }
    }
    Err(Rule::CodeUnknown)
}

/// Several codes of one list, each once, in the order written.
fn codes<'a>(
    text: &'a str,
    list: &'a CodeList,
    split: Option<&str>,
    clock: &Clock<'_>,
    remarks: &mut Remarks<'_>,
) -> Result<StandardValue<'a>, Rule> {
    let mut items: Vec<Cow<'a, str>> = Vec::new();
    let mut add = |item: &'a str| {
        if characters::is_empty_word(item) {
            return Ok(());
        }
        if let Some(item) = code(item, list, clock, remarks)?
            && !items.contains(&item)
        {
            items.push(item);
        }
        Ok(())
    };
    match split.filter(|split| !split.is_empty()) {
        Some(split) => text.split(split).try_for_each(&mut add)?,
        None => add(text)?,
    }
    Ok(if items.is_empty() { StandardValue::Null } else { StandardValue::TextList(items) })
}
