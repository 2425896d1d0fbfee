//! CEL expressions: they parse, use only names that exist, and never the clock.

use std::collections::BTreeSet;
use std::ops::Range;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::parser::Parser;

use super::kinds::{self, Kind};
use super::scalar::{nearest, short};

/// Longest expression, in bytes.
pub(crate) const MAX_SOURCE: usize = 4_000;
/// How deep its brackets may lie in each other.
pub(crate) const MAX_BRACKETS: u16 = 8;

/// CEL's standard functions and macros. `timestamp`, `duration` and their parts are not among them.
const FUNCTIONS: [&str; 19] = [
    "all",
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "exists",
    "exists_one",
    "filter",
    "has",
    "int",
    "map",
    "matches",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
];

/// What CEL's strings extension adds; mappings have it, conditions do not.
pub(in crate::contract) const STRINGS: [&str; 12] = [
    "charAt",
    "format",
    "indexOf",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "replace",
    "reverse",
    "split",
    "substring",
    "trim",
    "upperAscii",
];

/// Names of types, which stand as values.
const TYPES: [&str; 10] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// Functions that read the clock in CEL's dialects, or make a time to compare with it.
const CLOCK: [&str; 8] = ["now", "today", "timestamp", "date", "time", "current_date", "current_timestamp", "duration"];

/// Whether its parts may lie too deep in each other: said of its text, before a parser goes down as deep.
#[must_use]
pub fn is_too_deep(source: &str) -> bool {
    let most = usize::from(MAX_BRACKETS);
    let (mut open, mut prefixes, mut choices, mut operators) = (0_usize, 0_usize, 0_usize, 0_usize);
    source.chars().filter(|letter| !letter.is_whitespace()).any(|letter| {
        prefixes = if matches!(letter, '!' | '-') { prefixes + 1 } else { 0 };
        match letter {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            '?' => choices += 1,
            '+' | '*' | '/' | '%' | '&' | '|' => operators += 1,
            _ => {}
        }
        open > most || prefixes > most || choices > most || operators > 8 * most
    })
}

/// What is wrong with an expression, and where in it, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::contract) struct Fault {
    pub(in crate::contract) code: &'static str,
    pub(in crate::contract) message: String,
    pub(in crate::contract) help: Option<String>,
    pub(in crate::contract) range: Range<usize>,
}

/// Names an expression uses.
#[derive(Default)]
struct Names<'e> {
    variables: BTreeSet<&'e str>,
    functions: BTreeSet<&'e str>,
    /// `row.x` for each selected `x`.
    row: BTreeSet<&'e str>,
}

/// The columns that a mapping's expression takes from `row`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::contract) struct Uses {
    pub(in crate::contract) columns: Vec<String>,
    /// What it gives, where that does not depend on the row.
    pub(in crate::contract) kind: Option<Kind>,
}

/// Checks an expression over `variables`, each with the name that people know it by, which may be empty, and with `more` functions
/// beside the standard ones.
pub(in crate::contract) fn check(source: &str, variables: &[(&str, &str)], more: &[&str]) -> Result<Uses, Vec<Fault>> {
    if source.len() > MAX_SOURCE {
        let message = format!("the expression has {} bytes, at most {MAX_SOURCE} are taken", source.len());
        return Err(vec![Fault { code: "expression", message, help: None, range: 0..source.len() }]);
    }
    if is_too_deep(source) {
        let message = format!("more than {MAX_BRACKETS} parts of the expression lie in each other");
        return Err(vec![Fault { code: "expression", message, help: None, range: 0..source.len() }]);
    }
    let parser = Parser::new().max_recursion_depth(MAX_BRACKETS);
    let expression = parser.parse(source).map_err(|errors| parse_faults(source, &errors, variables))?;
    let mut names = Names::default();
    names.walk(&expression, &mut Vec::new());
    let mut faults = Vec::new();
    for name in names.variables.iter().filter(|name| !TYPES.contains(name)) {
        if variables.iter().any(|(known, _)| known == name) {
            continue;
        }
        let help = nearest(name, variables.iter().map(|(known, _)| *known))
            .map_or_else(|| help_variables(variables), |known| Some(format!("did you mean `{known}`?")));
        faults.push(fault(
            source,
            name,
            "unknown-name",
            format!("the expression uses `{}`, which does not exist", short(name)),
            help,
        ));
    }
    let known = |name: &&str| FUNCTIONS.contains(name) || more.contains(name);
    for name in names.functions.iter().filter(|name| name.starts_with(char::is_alphabetic) && !known(name)) {
        faults.push(if CLOCK.contains(name) || name.starts_with("get") {
            let message = format!("the expression uses the clock: `{name}`");
            let help = "a condition holds or does not hold by the record alone; for a last day use `approval.until`".to_owned();
            fault(source, name, "clock", message, Some(help))
        } else {
            let help = nearest(name, FUNCTIONS.iter().chain(more).copied()).map(|known| format!("did you mean `{known}`?"));
            fault(source, name, "unknown-function", format!("CEL has no function `{}`", short(name)), help)
        });
    }
    let columns = names.row.iter().map(|&column| column.to_owned()).collect();
    let kind = kinds::of(&expression.expr);
    if faults.is_empty() { Ok(Uses { columns, kind }) } else { Err(faults) }
}

fn help_variables(variables: &[(&str, &str)]) -> Option<String> {
    let [(only, _)] = variables else { return None };
    Some(format!("the source's columns are `{only}.<column>`"))
}

fn fault(source: &str, name: &str, code: &'static str, message: String, help: Option<String>) -> Fault {
    Fault { code, message, help, range: occurrence(source, name) }
}

/// Where `name` stands as a whole word.
fn occurrence(source: &str, name: &str) -> Range<usize> {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    source
        .match_indices(name)
        .map(|(at, _)| at..at + name.len())
        .find(|range| {
            let before = source.get(..range.start).and_then(|head| head.chars().next_back());
            let after = source.get(range.end..).and_then(|tail| tail.chars().next());
            !part(before) && !part(after)
        })
        .unwrap_or(0..source.len())
}

fn parse_faults(source: &str, errors: &cel::ParseErrors, variables: &[(&str, &str)]) -> Vec<Fault> {
    // One slip makes the parser report many; the first is the one to correct.
    let first = errors.errors.first();
    let (line, column) = first.map_or((1, 1), |error| error.pos);
    let offset = |n: isize| usize::try_from(n - 1).unwrap_or(0);
    let start = source.split_inclusive('\n').take(offset(line)).map(str::len).sum::<usize>().min(source.len());
    let at =
        source.get(start..).and_then(|rest| rest.char_indices().nth(offset(column))).map_or(source.len(), |(at, _)| start + at);
    let end = source.get(at..).and_then(|rest| rest.chars().next()).map_or(at, |c| at + c.len_utf8());
    let why = first.map(|error| short(error.msg.lines().next().unwrap_or_default())).unwrap_or_default();
    let rest = source.get(at..).unwrap_or_default();
    let titled = variables.iter().find(|(_, title)| !title.is_empty() && rest.starts_with(title));
    let help = match titled {
        Some((known, _)) => Some(format!("did you mean `{known}`?")),
        None if !rest.chars().next().is_none_or(|c| c.is_ascii()) => {
            Some("a column outside ASCII is row['…'], a text stands in quotes".to_owned())
        }
        None => None,
    };
    vec![Fault { code: "expression", message: format!("the expression cannot be read: {why}"), help, range: at..end }]
}

impl<'e> Names<'e> {
    fn walk(&mut self, node: &'e IdedExpr, bound: &mut Vec<&'e str>) {
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => {
                if !name.starts_with('@') && !bound.contains(&name.as_str()) {
                    self.variables.insert(name);
                }
            }
            Expr::Call(call) => {
                self.functions.insert(&call.func_name);
                self.index(call);
                call.target.iter().for_each(|target| self.walk(target, bound));
                call.args.iter().for_each(|argument| self.walk(argument, bound));
            }
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == "row" && !bound.contains(&"row")) {
                    self.row.insert(&select.field);
                }
                self.walk(&select.operand, bound);
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.walk(element, bound)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.entry(&entry.expr, bound)),
            Expr::Struct(made) => made.entries.iter().for_each(|entry| self.entry(&entry.expr, bound)),
            Expr::Comprehension(all) => {
                self.walk(&all.iter_range, bound);
                self.walk(&all.accu_init, bound);
                let outer = bound.len();
                bound.extend([all.iter_var.as_str(), all.accu_var.as_str()]);
                bound.extend(all.iter_var2.as_deref());
                for part in [&all.loop_cond, &all.loop_step, &all.result] {
                    self.walk(part, bound);
                }
                bound.truncate(outer);
            }
        }
    }

    /// `row['column']`, for columns that are no CEL names.
    fn index(&mut self, call: &'e CallExpr) {
        if let ("_[_]", [row, key]) = (call.func_name.as_str(), call.args.as_slice())
            && let (Expr::Ident(name), Expr::Literal(LiteralValue::String(column))) = (&row.expr, &key.expr)
            && name == "row"
        {
            self.row.insert(column.inner());
        }
    }

    fn entry(&mut self, entry: &'e EntryExpr, bound: &mut Vec<&'e str>) {
        match entry {
            EntryExpr::StructField(field) => self.walk(&field.value, bound),
            EntryExpr::MapEntry(entry) => {
                self.walk(&entry.key, bound);
                self.walk(&entry.value, bound);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELDS: [(&str, &str); 3] = [("status", "状态"), ("reg_address_division", "注册地址行政区划"), ("steps", "环节")];

    #[test]
    fn sound_expressions_pass() {
        for source in [
            "reg_address_division.startsWith('4501')",
            "status in ['1', '2'] && !(status == '9')",
            "steps.exists(s, s.name == '受理')",
            "has(steps.a) ? string(1 + 2) == '3' : status.matches('^[12]$')",
        ] {
            assert_eq!(check(source, &FIELDS, &[]).map(|uses| uses.columns), Ok(Vec::new()), "{source}");
        }
        let uses = check("row.xm + '/' + row['企业名称']", &[("row", "")], &STRINGS).map(|uses| uses.columns);
        assert_eq!(uses, Ok(vec!["xm".to_owned(), "企业名称".to_owned()]));
    }

    #[test]
    fn faults_name_their_place() {
        let one = |source: &str| {
            let faults = check(source, &FIELDS, &[]).unwrap_err();
            (faults[0].code, source.get(faults[0].range.clone()).unwrap().to_owned(), faults[0].help.clone())
        };
        assert_eq!(one("1 == 1 && stats == '1'"), ("unknown-name", "stats".into(), Some("did you mean `status`?".into())));
        assert_eq!(one("状态 == '1'").2, Some("did you mean `status`?".into()));
        assert_eq!(one("status.startWith('1')").0, "unknown-function");
        assert_eq!(one("status.startWith('1')").2, Some("did you mean `startsWith`?".into()));
        assert_eq!(one("status < now()").0, "clock");
        assert_eq!(one("timestamp(status).getFullYear() > 2020").0, "clock");
        assert_eq!(one("status == ").0, "expression");
        assert_eq!(one("status == '1' &&& 2").0, "expression");
    }

    proptest! {
        #[test]
        fn no_text_stops_the_check(source in "[a-z0-9'\"(){}.,?:&|!<>=+ 企业\\[\\]\\\\\n-]{0,40}") {
            for fault in check(&source, &FIELDS, &[]).err().into_iter().flatten() {
                prop_assert!(source.get(fault.range.clone()).is_some(), "{fault:?}");
            }
        }
    }
}
