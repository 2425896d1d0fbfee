//! What a column's sampled values say for or against a field, whatever the column is called.

use guitong_schemas::profile::{ColumnProfile, TableProfile};
use guitong_schemas::standard::{EntityField, FieldKind, Grade};
use guitong_schemas::table::ColumnType;

/// From -1 (it cannot be) to 1 (it can hardly be anything else), with the reason.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Evidence {
    pub(super) weight: f64,
    pub(super) reason: String,
}

/// Sampled values of one column, as shares of those that are there.
pub(super) struct Values<'p> {
    pub(super) column: &'p ColumnProfile,
    present: u64,
}

impl<'p> Values<'p> {
    /// `None` where the sample has no value of the column.
    pub(super) fn of(table: &TableProfile, column: &'p ColumnProfile) -> Option<Self> {
        let present = table.present(column);
        (present > 0).then_some(Self { column, present })
    }

    pub(super) fn share(&self, check: &str) -> f64 {
        self.column.passes(check) as f64 / self.present as f64
    }

    fn class(&self, class: &str) -> f64 {
        self.column.characters.get(class).copied().unwrap_or_default() as f64 / self.present as f64
    }

    /// Shares of values that stand in a list by code and by name.
    pub(super) fn listed(&self, list: &str) -> (f64, f64) {
        let count = self.column.lists.get(list).copied().unwrap_or_default();
        (count.by_code as f64 / self.present as f64, count.by_name as f64 / self.present as f64)
    }

    /// The best share of a date in any form, declared ones included.
    pub(super) fn dates(&self) -> f64 {
        let forms = self.column.checks.keys().filter(|check| check.starts_with("date:"));
        let declared: f64 = forms.map(|check| self.share(check)).fold(0.0, f64::max);
        (self.share("date").max(self.share("time")) + declared).min(1.0)
    }

    fn says(&self, weight: f64, share: f64, what: &str) -> Evidence {
        Evidence { weight, reason: format!("{:.0} % of {} values {what}", share * 100.0, self.present) }
    }

    /// What the values say for a field.
    pub(super) fn weigh(&self, field: &EntityField) -> Evidence {
        let Evidence { weight, reason } = self.weigh_kind(field);
        // Numbers of citizens and bodies are told so surely that no field of another kind takes them.
        for (check, takes) in [("citizen_id", takes_citizen_number(field)), ("uscc", takes_credit_code(field))] {
            let share = self.share(check);
            if share >= 0.5 && !takes {
                return self.says(-1.0, share, &format!("pass {check}"));
            }
        }
        Evidence { weight, reason }
    }

    fn weigh_kind(&self, field: &EntityField) -> Evidence {
        match &field.kind {
            FieldKind::Uscc => self.check("uscc", 1.0),
            FieldKind::OrgCode => self.check("org_code", 0.8),
            FieldKind::CitizenId => self.check("citizen_id", 1.0),
            FieldKind::ProjectCode => self.check("project_code", 1.0),
            FieldKind::BankCard => self.check("bank_card", 0.8),
            FieldKind::BusinessRegistration => self.check("registration_no", 0.8),
            FieldKind::Mobile => self.phone(),
            FieldKind::Phone { .. } => self.phone(),
            FieldKind::Url => self.check("url", 1.0),
            FieldKind::Division => self.division(),
            FieldKind::Industry => self.short_code(self.share("industry").max(self.share("industry:2011")), 5),
            FieldKind::Education => self.code(field, self.share("education:1984")),
            FieldKind::Code(_) | FieldKind::Codes(_) => self.code(field, 0.0),
            FieldKind::Date | FieldKind::Time => self.date(),
            FieldKind::PartialDate => match self.share("partial_date").max(self.dates()) {
                share if share >= 0.8 => self.says(0.4, share, "read as dates"),
                share => self.says(-0.6, share, "read as dates"),
            },
            FieldKind::Decimal { .. } => self.number("decimal"),
            FieldKind::Int => self.number("integer"),
            FieldKind::Name { max } => self.name(*max),
            FieldKind::Address { .. } => self.address(),
            FieldKind::Identifier { .. } | FieldKind::RegistrationNo { .. } => self.identifier(field),
            FieldKind::Text { max } => self.text(field, *max),
            FieldKind::Steps => Evidence { weight: 0.0, reason: String::new() },
        }
    }

    fn check(&self, check: &str, most: f64) -> Evidence {
        let share = self.share(check);
        let weight = match share {
            share if share >= 0.5 => most * share,
            share if share >= 0.2 => 0.0,
            _ => -0.9,
        };
        self.says(weight, share, &format!("pass {check}"))
    }

    fn phone(&self) -> Evidence {
        let (mobile, phone) = (self.share("mobile"), self.share("phone"));
        let long = self.column.length.is_some_and(|length| length.min >= 7 && length.max <= 40);
        match () {
            () if mobile >= 0.5 => self.says(0.8, mobile, "pass mobile"),
            () if phone >= 0.8 && long && self.dates() < 0.5 => self.says(0.4, phone, "look like telephone numbers"),
            () => self.says(-0.9, phone, "look like telephone numbers"),
        }
    }

    fn division(&self) -> Evidence {
        let share = self.share("division");
        let long = self.column.length.is_some_and(|length| length.min >= 6);
        if share >= 0.8 && long { self.says(0.7, share, "pass division") } else { self.says(-0.8, share, "pass division") }
    }

    fn short_code(&self, share: f64, longest: u32) -> Evidence {
        let short = self.column.length.is_some_and(|length| length.max <= longest);
        if share >= 0.8 && short {
            self.says(0.3, share, "are codes of the list")
        } else {
            self.says(-0.6, share, "are codes of the list")
        }
    }

    fn code(&self, field: &EntityField, old: f64) -> Evidence {
        let list = field.code_list().map(|list| list.name.as_str()).unwrap_or_default();
        let (by_code, by_name) = self.listed(list);
        let narrow = field.code_list().is_some_and(|list| list.codes().iter().all(|code| code.code.len() < 2));
        let few = self.column.distinct <= 60 && self.column.length.is_some_and(|length| length.max <= 30);
        match () {
            () if by_name >= 0.5 => self.says(0.8, by_name, &format!("are names of {list}")),
            () if by_code + by_name >= 0.8 && !narrow => self.says(0.3, by_code + by_name, &format!("are in {list}")),
            () if by_code >= 0.8 => self.says(0.1, by_code, &format!("are codes of {list}")),
            () if old >= 0.8 => self.says(0.3, old, "are codes of the edition of 1984"),
            // A department's own codes, which the mapping translates.
            () if few => self.says(-0.05, by_code + by_name, &format!("are in {list}")),
            () => self.says(-0.8, by_code + by_name, &format!("are in {list}")),
        }
    }

    fn date(&self) -> Evidence {
        let typed =
            matches!(self.column.kind, ColumnType::Date | ColumnType::Timestamp { .. } | ColumnType::ZonedTimestamp { .. });
        let share = if typed { 1.0 } else { self.dates() };
        match share {
            share if share >= 0.7 => self.says(0.45, share, "read as dates"),
            share if share >= 0.4 => self.says(0.1, share, "read as dates"),
            share => self.says(-0.9, share, "read as dates"),
        }
    }

    fn number(&self, check: &str) -> Evidence {
        let share = self.share(check);
        let date = self.share("date") >= 0.8;
        match () {
            () if date => self.says(-0.7, self.share("date"), "are dates"),
            () if share >= 0.7 => self.says(0.25, share, "are numbers"),
            () if share >= 0.3 => self.says(0.0, share, "are numbers"),
            () => self.says(-0.9, share, "are numbers"),
        }
    }

    fn name(&self, max: usize) -> Evidence {
        let (person, body) = (self.share("person_name"), self.share("organisation_name"));
        let digits = self.class("digits") + self.dates();
        match () {
            () if digits >= 0.5 => self.says(-0.9, digits, "are digits or dates"),
            () if self.share("address") >= 0.5 => self.says(-0.6, self.share("address"), "look like addresses"),
            () if max < 200 && body >= 0.5 => self.says(-0.6, body, "look like names of bodies"),
            () if person >= 0.5 => self.says(0.45, person, "look like names of persons"),
            () if max >= 200 && body + person >= 0.5 => self.says(0.4, body + person, "look like names"),
            () => Evidence { weight: 0.0, reason: "no check tells its values".to_owned() },
        }
    }

    fn address(&self) -> Evidence {
        let (share, digits) = (self.share("address"), self.class("digits"));
        match () {
            () if share >= 0.5 => self.says(0.6, share, "look like addresses"),
            () if digits >= 0.5 => self.says(-0.9, digits, "are digits"),
            () if self.dates() >= 0.5 => self.says(-0.9, self.dates(), "are dates"),
            () if self.share("person_name") >= 0.5 => self.says(-0.7, self.share("person_name"), "look like names of persons"),
            () => self.says(0.0, share, "look like addresses"),
        }
    }

    fn identifier(&self, field: &EntityField) -> Evidence {
        let citizen = self.share("citizen_id");
        let han = self.class("han");
        match () {
            () if han >= 0.5 => self.says(-0.7, han, "are Chinese words"),
            () if citizen >= 0.3 && takes_citizen_number(field) => self.says(0.7, citizen, "pass citizen_id"),
            () if self.share("uscc") >= 0.3 && takes_credit_code(field) => self.says(0.6, self.share("uscc"), "pass uscc"),
            () if self.share("person_name") >= 0.5 => self.says(-0.8, self.share("person_name"), "look like names of persons"),
            () if field.grade == Grade::G3 && citizen < 0.1 && self.column.length.is_some_and(|length| length.max < 7) => {
                self.says(-0.6, citizen, "pass citizen_id")
            }
            () if self.share("mobile") >= 0.8 => self.says(-0.6, self.share("mobile"), "pass mobile"),
            () => Evidence { weight: 0.05, reason: "no check tells its values".to_owned() },
        }
    }

    fn text(&self, field: &EntityField, max: usize) -> Evidence {
        let body = self.share("organisation_name");
        let names_body = ["机关", "单位", "部门", "机构", "招标人"].iter().any(|word| field.title_zh.contains(word));
        let long = self.column.length.is_some_and(|length| length.max as usize > max * 2);
        match () {
            () if self.share("date") >= 0.8 => self.says(-0.8, self.share("date"), "are dates"),
            () if self.share("mobile") >= 0.8 => self.says(-0.8, self.share("mobile"), "pass mobile"),
            () if self.share("project_code") >= 0.8 => self.says(-0.8, self.share("project_code"), "pass project_code"),
            () if names_body && body >= 0.5 => self.says(0.4, body, "look like names of bodies"),
            () if names_body && self.share("person_name") >= 0.6 => {
                self.says(-0.5, self.share("person_name"), "look like names of persons")
            }
            () if self.class("digits") >= 0.8 => self.says(-0.6, self.class("digits"), "are digits"),
            () if long => self.says(-0.3, 1.0, "may be longer than the field allows"),
            () => Evidence { weight: 0.05, reason: "no check tells its values".to_owned() },
        }
    }

    /// Share of values in whose shape a character stands.
    pub(super) fn shaped(&self, letter: char) -> f64 {
        let shapes = self.column.shapes.iter().filter(|shape| shape.value.contains(letter));
        shapes.map(|shape| shape.rows).sum::<u64>() as f64 / self.present as f64
    }
}

fn takes_citizen_number(field: &EntityField) -> bool {
    matches!(field.kind, FieldKind::CitizenId)
        || field.highest_grade() == Grade::G3 && matches!(field.kind, FieldKind::Identifier { .. })
}

fn takes_credit_code(field: &EntityField) -> bool {
    // A document's number can be that of a body: an applicant's, a winner's; an authority's code is its credit code.
    matches!(field.kind, FieldKind::Uscc | FieldKind::Identifier { max: 18..=30 })
}
