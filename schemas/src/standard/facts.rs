//! The tables that identifier checks ask, in the form in which they are asked.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use sha2::{Digest as _, Sha256};

use super::codes::{CodeList, ListError, PackedMap, pack};
use super::division_names::DivisionNames;
use super::table::Tables;

/// Everything that field kinds look up.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) divisions: Divisions,
    pub(crate) division_names: DivisionNames,
    pub(crate) industry: Industry,
    pub(crate) education: CodeList,
    pub(crate) education_1984: PackedMap<u64, Education1984>,
    pub(crate) education_1984_names: CodeList,
    pub(crate) categories: Categories,
    pub(crate) step_action: Arc<CodeList>,
    divisions_digest: OnceLock<[u8; 32]>,
}

impl Facts {
    pub(crate) fn build(tables: &Arc<Tables>) -> Result<Self, ListError> {
        Ok(Self {
            division_names: DivisionNames::new(Arc::clone(tables)),
            divisions: Divisions::build(tables)?,
            industry: Industry::build(tables)?,
            education: CodeList::build("gbt4658_education", tables)?,
            education_1984: education_1984(tables)?,
            education_1984_names: CodeList::build("gbt4658_1984_education_major", tables)?,
            categories: Categories::build(tables)?,
            step_action: Arc::new(CodeList::build("field_lists:step_action", tables)?),
            divisions_digest: OnceLock::new(),
        })
    }

    /// Tells division tables by which an address or a citizen number is recognised from others.
    pub(crate) fn divisions_digest(&self) -> [u8; 32] {
        let take = || {
            let mut digest = Sha256::new();
            for name in self.division_names.sorted() {
                digest.update(name);
                digest.update([0]);
            }
            for code in self.divisions.citizen_codes() {
                digest.update(code.to_be_bytes());
            }
            digest.finalize().into()
        };
        *self.divisions_digest.get_or_init(take)
    }
}

/// GB/T 2260: the whole country's codes, and of the region the current ones and the successors of retired ones.
#[derive(Debug)]
pub(crate) struct Divisions {
    national: PackedMap<u32, National>,
    region: PackedMap<u32, Regional>,
    /// The region's first two digits.
    region_prefix: u32,
}

#[derive(Debug, Clone, Copy)]
struct National {
    /// Whether citizen numbers can begin with it.
    in_citizen_numbers: bool,
    /// First and last year in which the code was given out, for any division; 0 and `u16::MAX` where unknown.
    from: u16,
    to: u16,
}

#[derive(Debug, Clone, Copy)]
enum Regional {
    Current,
    RetiredTo(u32),
    RetiredWithout,
}

/// How a division code stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Current,
    /// Retired, with the one successor.
    Successor(u32),
    /// Retired, without exactly one successor.
    NoSuccessor,
    Unknown,
}

/// Years in which a code was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Years {
    pub(crate) from: u16,
    pub(crate) to: u16,
}

fn number(table: &str, code: &str) -> Result<u32, ListError> {
    code.parse().map_err(|_| ListError::new(table, format!("`{code}` is not a number")))
}

impl Divisions {
    fn build(tables: &Tables) -> Result<Self, ListError> {
        let mut national = PackedMap::default();
        for [code, status, from, to] in tables.get("gbt2260_national")?.cells(["code", "status", "from_year", "to_year"]) {
            let read = |year: &str, otherwise| year.parse::<u16>().unwrap_or(otherwise);
            let row = National {
                in_citizen_numbers: status != "statistical",
                from: read(from, 0),
                to: if status == "retired" { read(to, u16::MAX) } else { u16::MAX },
            };
            national.insert(number("gbt2260_national", code)?, row);
        }
        let mut region = PackedMap::default();
        let mut region_prefix = 0;
        for [code] in tables.get("gbt2260_guangxi")?.cells(["code"]) {
            let code = number("gbt2260_guangxi", code)?;
            region_prefix = code / 10_000;
            region.insert(code, Regional::Current);
        }
        let mut successors: PackedMap<u32, BTreeSet<u32>> = PackedMap::default();
        for [code, from, successor] in tables.get("gbt2260_guangxi_history")?.cells(["code", "from_year", "successor_code"]) {
            let code = number("gbt2260_guangxi_history", code)?;
            // A code can have been another division's before.
            if let (Some(row), Ok(from)) = (national.get_mut(&code), from.parse()) {
                row.from = row.from.min(from);
            }
            let held = successors.entry(code).or_default();
            if !successor.is_empty() {
                held.insert(number("gbt2260_guangxi_history", successor)?);
            }
        }
        for (code, successors) in successors {
            let mut successors = successors.into_iter();
            let retired = match (successors.next(), successors.next()) {
                (Some(only), None) => Regional::RetiredTo(only),
                _ => Regional::RetiredWithout,
            };
            region.entry(code).or_insert(retired);
        }
        Ok(Self { national, region, region_prefix })
    }

    pub(crate) fn standing(&self, code: u32) -> Standing {
        if code / 10_000 == self.region_prefix {
            match self.region.get(&code) {
                Some(Regional::Current) => Standing::Current,
                Some(Regional::RetiredTo(successor)) => Standing::Successor(*successor),
                Some(Regional::RetiredWithout) => Standing::NoSuccessor,
                None if self.national.contains_key(&code) => Standing::NoSuccessor,
                None => Standing::Unknown,
            }
        } else if self.national.contains_key(&code) {
            Standing::Current
        } else {
            Standing::Unknown
        }
    }

    /// Whether this is a six-digit code that a record may carry without repair.
    pub(crate) fn is_known(&self, code: &str) -> bool {
        code.len() == 6
            && code.bytes().all(|b| b.is_ascii_digit())
            && code.parse().is_ok_and(|code| matches!(self.standing(code), Standing::Current | Standing::NoSuccessor))
    }

    /// The years of a code that a citizen number may begin with.
    pub(crate) fn citizen_years(&self, code: u32) -> Option<Years> {
        if matches!(code, 810_000 | 820_000 | 830_000) {
            return Some(Years { from: 0, to: u16::MAX });
        }
        let row = self.national.get(&code).filter(|row| row.in_citizen_numbers)?;
        Some(Years { from: row.from, to: row.to })
    }

    /// The codes of the national list that a citizen number may begin with.
    fn citizen_codes(&self) -> BTreeSet<u32> {
        self.national.iter().filter(|(_, row)| row.in_citizen_numbers).map(|(code, _)| *code).collect()
    }

    /// Whether the national list has the code, retired or not.
    pub(crate) fn in_national_list(&self, code: u32) -> bool {
        self.national.contains_key(&code)
    }
}

/// GB/T 4754: divisions of both editions.
#[derive(Debug)]
pub(crate) struct Industry {
    /// By the two-digit division: whether the 2017 edition has it.
    divisions: [bool; 100],
    /// By the division of 2011: the one of 2017, 0 where the 2011 edition has none.
    from_2011: [u8; 100],
}

impl Industry {
    fn build(tables: &Tables) -> Result<Self, ListError> {
        let mut divisions = [false; 100];
        for [code, level] in tables.get("gbt4754_industry_sections")?.cells(["code", "level"]) {
            if level == "division"
                && let Some(held) = divisions.get_mut(number("gbt4754_industry_sections", code)? as usize)
            {
                *held = true;
            }
        }
        let mut from_2011 = [0; 100];
        for [code, level, now] in tables.get("gbt4754_2011_divisions")?.cells(["code", "level", "code_2017"]) {
            if level == "division"
                && let Some(held) = from_2011.get_mut(number("gbt4754_2011_divisions", code)? as usize)
            {
                *held = u8::try_from(number("gbt4754_2011_divisions", now)?).unwrap_or_default();
            }
        }
        Ok(Self { divisions, from_2011 })
    }

    pub(crate) fn has_division(&self, division: u8) -> bool {
        self.divisions.get(usize::from(division)).copied().unwrap_or_default()
    }

    pub(crate) fn of_2011(&self, division: u8) -> Option<u8> {
        self.from_2011.get(usize::from(division)).copied().filter(|now| *now != 0)
    }

    /// Two to four digits of the 2017 edition.
    pub(crate) fn is_legal(&self, code: &str) -> bool {
        (2..=4).contains(&code.len())
            && code.bytes().all(|b| b.is_ascii_digit())
            && code.get(..2).and_then(|division| division.parse().ok()).is_some_and(|division| self.has_division(division))
    }
}

/// What a code of GB/T 4658-1984 becomes.
#[derive(Debug, Clone)]
pub(crate) struct Education1984 {
    pub(crate) code: Box<str>,
    /// The old code has no exact counterpart.
    pub(crate) estimated: bool,
}

fn education_1984(tables: &Tables) -> Result<PackedMap<u64, Education1984>, ListError> {
    let mut map = PackedMap::default();
    for [old, now, verdict] in tables.get("gbt4658_1984_to_2006")?.cells(["code_1984", "code_2006", "verdict"]) {
        if let Some(packed) = pack(old) {
            map.insert(packed, Education1984 { code: now.into(), estimated: verdict != "ok" });
        }
    }
    Ok(map)
}

/// GB 32100: registering departments and their categories.
#[derive(Debug)]
pub(crate) struct Categories {
    departments: [bool; 128],
    /// Departments and categories as two bytes; whether sources agree on it.
    categories: PackedMap<u32, bool>,
}

impl Categories {
    fn build(tables: &Tables) -> Result<Self, ListError> {
        let mut departments = [false; 128];
        let mut categories = PackedMap::default();
        for [code, confidence] in tables.get("gb32100_dept_org")?.cells(["code", "confidence"]) {
            if let [department, category] = *code.as_bytes() {
                if let Some(held) = departments.get_mut(usize::from(department)) {
                    *held = true;
                }
                categories.insert(u32::from(department) << 8 | u32::from(category), confidence == "high");
            }
        }
        Ok(Self { departments, categories })
    }

    pub(crate) fn has_department(&self, department: u8) -> bool {
        self.departments.get(usize::from(department)).copied().unwrap_or_default()
    }

    /// Whether the table has the category and its sources agree.
    pub(crate) fn is_certain(&self, department: u8, category: u8) -> bool {
        self.categories.get(&(u32::from(department) << 8 | u32::from(category))).copied().unwrap_or_default()
    }
}
