//! The row condition of a subscription: CEL over the entity's fields, compiled once, evaluated per row.

use std::fmt;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::common::types::{CelDouble, CelInt, CelList, CelNull, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Program, Value};
use guitong_schemas::standard::StandardValue;
use thiserror::Error;

/// A condition that cannot be evaluated on any row.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConditionError {
    #[error("`where` is not a CEL expression: {0}")]
    Syntax(String),
    #[error("`where` uses `{0}`, which is no field of {1}")]
    UnknownField(String, String),
    #[error("`where` calls `{0}`, which CEL does not have here")]
    UnknownFunction(String),
}

/// Why one row could not be judged. Names no value: it is reported to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EvaluationError {
    #[error("the condition applies an operator or function to a value of another type (is a field of it empty?)")]
    Type,
    #[error("the condition is neither true nor false for this row")]
    NotBoolean,
    #[error("the condition's arithmetic has no result for this row")]
    Arithmetic,
    #[error("the condition cannot be evaluated for this row")]
    Other,
}

pub(crate) struct Condition {
    source: String,
    program: Program,
    env: Arc<Env>,
    fields: Arc<[Box<str>]>,
    /// Those that it asks for.
    asks: Vec<usize>,
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.source).finish()
    }
}

impl Condition {
    /// Compiles `source` over `fields`, the entity's field names in the entity's order.
    pub(crate) fn compile(source: &str, entity: &str, fields: Arc<[Box<str>]>) -> Result<Self, ConditionError> {
        let env = Arc::new(Env::stdlib());
        let program = env.compile(source).map_err(|error| ConditionError::Syntax(error.to_string()))?;
        let mut unbound = Vec::new();
        unbound_names(program.expression(), &mut Vec::new(), &mut unbound);
        let mut asks = Vec::new();
        for name in unbound {
            let Some(at) = fields.iter().position(|field| **field == *name) else {
                return Err(ConditionError::UnknownField(name, entity.to_owned()));
            };
            asks.push(at);
        }
        let condition = Self { source: source.to_owned(), program, env, fields, asks };
        condition.try_out()?;
        Ok(condition)
    }

    /// A first evaluation over empty text finds calls of functions that do not exist.
    fn try_out(&self) -> Result<(), ConditionError> {
        let row = vec![StandardValue::Text("".into()); self.fields.len()];
        match self.execute(&row) {
            Err(ExecutionError::UndeclaredReference(name)) => Err(ConditionError::UnknownFunction((*name).clone())),
            _ => Ok(()),
        }
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Places of the fields that it asks for.
    pub(crate) fn asks(&self) -> &[usize] {
        &self.asks
    }

    /// Whether the row, in the entity's field order, is granted.
    pub(crate) fn holds(&self, row: &[StandardValue<'_>]) -> Result<bool, EvaluationError> {
        match self.execute(row) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err(EvaluationError::NotBoolean),
            Err(ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) | ExecutionError::Overflow(..)) => {
                Err(EvaluationError::Arithmetic)
            }
            Err(
                ExecutionError::NoSuchOverload(_)
                | ExecutionError::UnexpectedType { .. }
                | ExecutionError::UnsupportedBinaryOperator(..)
                | ExecutionError::ValuesNotComparable(..)
                | ExecutionError::UnsupportedTargetType { .. }
                | ExecutionError::NotSupportedAsMethod { .. },
            ) => Err(EvaluationError::Type),
            Err(_) => Err(EvaluationError::Other),
        }
    }

    fn execute(&self, row: &[StandardValue<'_>]) -> Result<Value, ExecutionError> {
        let variables = Variables { condition: self, row };
        let mut context = Context::with_env(Arc::clone(&self.env));
        context.set_variable_resolver(&variables);
        self.program.execute(&context)
    }
}

struct Variables<'c, 'r, 'a> {
    condition: &'c Condition,
    row: &'r [StandardValue<'a>],
}

impl VariableResolver for Variables<'_, '_, '_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let at = self.condition.fields.iter().position(|name| **name == *variable)?;
        Some(match self.row.get(at)? {
            StandardValue::Null => CowVal::owned(CelNull),
            StandardValue::Int(value) => CowVal::owned(CelInt::from(*value)),
            StandardValue::Text(value) => CowVal::owned(CelString::from(&**value)),
            // Written at one offset, dates and instants are texts that sort as they do.
            value @ (StandardValue::Date(_) | StandardValue::Time(_)) => CowVal::owned(CelString::from(value.to_string())),
            value @ StandardValue::Decimal { .. } => match value.to_string().parse::<f64>() {
                Ok(value) => CowVal::owned(CelDouble::from(value)),
                Err(_) => CowVal::owned(CelNull),
            },
            StandardValue::TextList(items) => list(items.iter().map(|item| &**item)),
            StandardValue::Steps(steps) => list(steps.iter().map(|step| step.name.as_deref().unwrap_or_default())),
        })
    }
}

fn list<'b>(items: impl Iterator<Item = &'b str>) -> CowVal<'b, 'b> {
    CowVal::owned(CelList::from(items.map(|item| Box::new(CelString::from(item)) as Box<dyn Val + 'b>).collect::<Vec<_>>()))
}

/// Collects the identifiers that no macro of the expression binds.
fn unbound_names(node: &IdedExpr, bound: &mut Vec<String>, out: &mut Vec<String>) {
    match &node.expr {
        Expr::Ident(name) => {
            if !name.starts_with('@') && !bound.contains(name) {
                out.push(name.clone());
            }
        }
        Expr::Call(call) => {
            call.target.iter().map(|target| &**target).chain(&call.args).for_each(|arg| unbound_names(arg, bound, out))
        }
        Expr::Comprehension(loops) => {
            unbound_names(&loops.iter_range, bound, out);
            unbound_names(&loops.accu_init, bound, out);
            let outer = bound.len();
            bound.push(loops.iter_var.clone());
            bound.extend(loops.iter_var2.clone());
            bound.push(loops.accu_var.clone());
            for part in [&loops.loop_cond, &loops.loop_step, &loops.result] {
                unbound_names(part, bound, out);
            }
            bound.truncate(outer);
        }
        Expr::List(list) => list.elements.iter().for_each(|element| unbound_names(element, bound, out)),
        Expr::Select(select) => unbound_names(&select.operand, bound, out),
        Expr::Map(map) => map.entries.iter().for_each(|entry| unbound_entry(&entry.expr, bound, out)),
        Expr::Struct(fields) => fields.entries.iter().for_each(|entry| unbound_entry(&entry.expr, bound, out)),
        Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn unbound_entry(entry: &EntryExpr, bound: &mut Vec<String>, out: &mut Vec<String>) {
    match entry {
        EntryExpr::StructField(field) => unbound_names(&field.value, bound, out),
        EntryExpr::MapEntry(entry) => {
            unbound_names(&entry.key, bound, out);
            unbound_names(&entry.value, bound, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Arc<[Box<str>]> {
        ["division", "amount", "established", "kinds", "count"].map(Box::from).into()
    }

    fn compile(source: &str) -> Result<Condition, ConditionError> {
        Condition::compile(source, "LegalEntity", fields())
    }

    fn row<'a>() -> Vec<StandardValue<'a>> {
        vec![
            StandardValue::Text("450102".into()),
            StandardValue::Decimal { unscaled: 1_500_000, scale: 4 },
            StandardValue::Date(17_431),
            StandardValue::TextList(vec!["01".into(), "02".into()]),
            StandardValue::Int(3),
        ]
    }

    #[test]
    fn conditions_read_every_kind_of_field() {
        for (source, holds) in [
            ("division.startsWith('4501')", true),
            ("division.startsWith('4502')", false),
            ("amount >= 150.0 && amount < 151.0", true),
            ("established >= '2017-09-22' && established < '2017-09-23'", true),
            ("kinds.exists(k, k == '02')", true),
            ("'03' in kinds", false),
            ("count > 2", true),
            ("division != null && division.matches('^45')", true),
        ] {
            assert_eq!(compile(source).unwrap().holds(&row()), Ok(holds), "{source}");
        }
    }

    #[test]
    fn what_cannot_be_judged_is_an_error_without_the_value() {
        let mut empty = row();
        empty[0] = StandardValue::Null;
        assert_eq!(compile("division.startsWith('4501')").unwrap().holds(&empty), Err(EvaluationError::Type));
        assert_eq!(compile("division").unwrap().holds(&row()), Err(EvaluationError::NotBoolean));
        assert_eq!(compile("count / (count - 3) > 0").unwrap().holds(&row()), Err(EvaluationError::Arithmetic));
    }

    #[test]
    fn unknown_names_and_broken_text_are_errors_before_any_row() {
        assert!(matches!(compile("division ==="), Err(ConditionError::Syntax(_))));
        assert_eq!(compile("divison == '1'").unwrap_err(), ConditionError::UnknownField("divison".into(), "LegalEntity".into()));
        assert!(matches!(compile("now() > established"), Err(ConditionError::UnknownFunction(_))));
    }
}
