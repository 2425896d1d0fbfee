//! CEL for what declared mappings cannot say: `row.<column>` (or `row["列名"]`) in, one value out.
//!
//! Bounds: an expression has at most [`MAX_EXPRESSION`] bytes and loops at most two deep, a column's text has at most [`MAX_TEXT`] bytes,
//! and an evaluation ends with an error once it has used what [`meter`] allows: it costs its own record alone.

mod meter;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use cel::{Context, Env, IdedExpr, Value};
use guitong_schemas::contract::mapping::{MAX_BRACKETS, MAX_EXPRESSION, is_small, is_too_deep};
use guitong_schemas::standard::Input;

/// Longest text of one column that an expression reads, in bytes.
const MAX_TEXT: usize = 4 << 10;
const MAX_LOOPS: usize = 2;
/// How deep the parts of an expression lie in each other: the interpreter goes down as deep, and takes much stack for each.
const MAX_DEPTH: usize = 24;
/// Parts that a loop counts for.
const LOOP_DEPTH: usize = 3;

/// Names of types, which stand as values.
const TYPES: [&str; 10] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Expression {
    /// With what it makes charged.
    metered: IdedExpr,
    columns: Vec<String>,
}

/// What an expression gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Null,
    Text(String),
    Integer(i64),
    Boolean(bool),
}

/// Why an expression gave no value for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A column's text is over [`MAX_TEXT`].
    TooLarge,
    /// It used up what an evaluation may use.
    Stopped,
    /// It stopped with an error, or gave a list, map or bytes.
    Evaluation,
}

fn environment() -> &'static Arc<Env> {
    static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
        let mut env = Env::stdlib();
        // Only a name that is taken refuses an extension, and the standard library has none of these.
        let _ = env.add_extension(cel::extensions::strings);
        let _ = meter::declare(&mut env);
        Arc::new(env)
    });
    &ENVIRONMENT
}

impl Expression {
    /// Compiles `source`; the error says what is wrong with it.
    pub(crate) fn compile(source: &str) -> Result<Self, String> {
        if source.len() > MAX_EXPRESSION {
            return Err(format!("the expression has {} bytes, at most {MAX_EXPRESSION} are taken", source.len()));
        }
        if is_too_deep(source) {
            return Err(format!("more than {MAX_BRACKETS} parts lie in each other"));
        }
        let parser = environment().parser().max_recursion_depth(MAX_BRACKETS);
        let expression = parser.parse(source).map_err(|errors| errors.to_string())?;
        let mut survey = Survey::default();
        survey.visit(&expression, Depth::default())?;
        Ok(Self { metered: meter::metered(&expression), columns: survey.columns.into_iter().collect() })
    }

    /// Columns that it reads, in the order in which [`Expression::evaluate`] takes their values.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(crate) fn evaluate<'a>(&self, values: impl Iterator<Item = Option<Input<'a>>>) -> Result<Outcome, Failure> {
        let mut row: HashMap<&str, Value> = HashMap::with_capacity(self.columns.len());
        for (column, value) in self.columns.iter().zip(values) {
            row.insert(column, to_cel(value)?);
        }
        let mut context = Context::with_env(Arc::clone(environment()));
        context.add_variable_from_value("row", row);
        meter::begin();
        let value = Value::resolve(&self.metered, &context);
        match value.map_err(|_| if meter::is_spent() { Failure::Stopped } else { Failure::Evaluation })? {
            Value::Null => Ok(Outcome::Null),
            Value::String(text) => Ok(Outcome::Text(Arc::unwrap_or_clone(text))),
            Value::Int(number) => Ok(Outcome::Integer(number)),
            Value::UInt(number) => i64::try_from(number).map(Outcome::Integer).map_err(|_| Failure::Evaluation),
            Value::Float(number) if number.is_finite() => Ok(Outcome::Text(number.to_string())),
            Value::Bool(truth) => Ok(Outcome::Boolean(truth)),
            _ => Err(Failure::Evaluation),
        }
    }
}

/// Numbers that CEL cannot hold exactly come as text, dates and times in their ISO form.
fn to_cel(value: Option<Input<'_>>) -> Result<Value, Failure> {
    Ok(match value {
        None => Value::Null,
        Some(Input::Text(text)) if text.len() > MAX_TEXT => return Err(Failure::TooLarge),
        Some(Input::Text(text)) => text.into(),
        Some(Input::Integer(number)) => Value::Int(number),
        Some(Input::Boolean(truth)) => Value::Bool(truth),
        Some(other) => Value::from(super::column::text_of(other)),
    })
}

#[derive(Default, Clone, Copy)]
struct Depth {
    nodes: usize,
    loops: usize,
}

/// Collects the columns of an expression and holds its bounds.
#[derive(Default)]
struct Survey {
    columns: BTreeSet<String>,
    /// Names that loops bind.
    bound: Vec<String>,
}

impl Survey {
    fn visit(&mut self, node: &IdedExpr, depth: Depth) -> Result<(), String> {
        let depth = Depth { nodes: depth.nodes + 1, ..depth };
        if depth.nodes > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} parts lie in each other"));
        }
        match &node.expr {
            Expr::Select(select) if is_row(&select.operand.expr) => {
                self.columns.insert(select.field.clone());
                Ok(())
            }
            Expr::Select(select) => self.visit(&select.operand, depth),
            Expr::Call(call) => {
                if let (operators::INDEX, [row, column]) = (call.func_name.as_str(), call.args.as_slice())
                    && is_row(&row.expr)
                {
                    let Expr::Literal(LiteralValue::String(column)) = &column.expr else {
                        return Err("a column is named by a literal: row[\"列名\"]".to_owned());
                    };
                    self.columns.insert(column.inner().to_owned());
                    return Ok(());
                }
                if call.func_name == "matches" {
                    let Some(Expr::Literal(LiteralValue::String(pattern))) = call.args.last().map(|pattern| &pattern.expr) else {
                        return Err("the regular expression of `matches` is a literal".to_owned());
                    };
                    // The interpreter compiles it for every record.
                    is_small(pattern.inner()).map_err(|error| format!("the regular expression of `matches` {error}"))?;
                }
                call.target.iter().try_for_each(|target| self.visit(target, depth))?;
                call.args.iter().try_for_each(|argument| self.visit(argument, depth))
            }
            Expr::Comprehension(loops) => {
                let depth = Depth { nodes: depth.nodes + LOOP_DEPTH, ..depth };
                let inner = Depth { loops: depth.loops + 1, ..depth };
                if inner.loops > MAX_LOOPS {
                    return Err(format!("loops more than {MAX_LOOPS} deep"));
                }
                self.visit(&loops.iter_range, depth)?;
                let outside = self.bound.len();
                self.bound.extend([loops.iter_var.clone(), loops.accu_var.clone()]);
                self.bound.extend(loops.iter_var2.clone());
                for part in [&loops.accu_init, &loops.loop_cond, &loops.loop_step, &loops.result] {
                    self.visit(part, inner)?;
                }
                self.bound.truncate(outside);
                Ok(())
            }
            Expr::Ident(name) if name == "row" => Err("`row` is read by column: row.<column>".to_owned()),
            Expr::Ident(name) if !self.bound.contains(name) && !TYPES.contains(&name.as_str()) => {
                Err(format!("unknown name `{name}`; columns are `row.{name}`"))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.visit(element, depth)),
            Expr::Map(map) if map.entries.iter().all(|entry| is_literal(&entry.expr)) => Ok(()),
            Expr::Map(_) | Expr::Struct(_) => Err("a map holds literals alone".to_owned()),
            Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }
}

fn is_literal(entry: &EntryExpr) -> bool {
    let literal = |node: &IdedExpr| matches!(node.expr, Expr::Literal(_));
    matches!(entry, EntryExpr::MapEntry(pair) if literal(&pair.key) && literal(&pair.value))
}

fn is_row(expr: &Expr) -> bool {
    matches!(expr, Expr::Ident(name) if name == "row")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str, values: &[Option<Input<'_>>]) -> Result<Outcome, Failure> {
        Expression::compile(source).expect("compiles").evaluate(values.iter().copied())
    }

    #[test]
    fn columns_are_found_and_values_come_back() {
        let expression = Expression::compile("row.b == 1 ? row[\"名称\"] : row.a").expect("compiles");
        assert_eq!(expression.columns(), ["a", "b", "名称"]);
        let value = expression.evaluate([None, Some(Input::Integer(1)), Some(Input::Text("桂"))].into_iter());
        assert_eq!(value, Ok(Outcome::Text("桂".to_owned())));
        assert_eq!(run("row.a", &[None]), Ok(Outcome::Null));
        assert_eq!(run("row.a.split('/')[0]", &[Some(Input::Text("1/2"))]), Ok(Outcome::Text("1".to_owned())));
        assert_eq!(run("row.a + 1", &[Some(Input::Integer(i64::MAX))]), Err(Failure::Evaluation));
        assert_eq!(run("[row.a]", &[None]), Err(Failure::Evaluation));
    }

    #[test]
    fn expressions_are_bounded() {
        let text = "长".repeat(MAX_TEXT);
        assert_eq!(run("row.a", &[Some(Input::Text(&text))]), Err(Failure::TooLarge));
        for (source, part) in [
            ("1 +", "Syntax"),
            ("name", "unknown name `name`"),
            ("row", "by column"),
            ("row[row.a]", "literal"),
            ("[1].map(a, [1].map(b, [1].map(c, a + b + c)))", "2 deep"),
            ("row.a.matches(row.b)", "literal"),
            ("row.a.matches('^([a-z]{1,60}){1,60}$')", "KiB"),
            ("{'a': [row.a]}.a", "literals alone"),
            (format!("1{}", "+1".repeat(100)).as_str(), "in each other"),
            ("(".repeat(2_000).as_str(), "in each other"),
            ("!".repeat(2_000).as_str(), "in each other"),
            ("1?1:".repeat(500).as_str(), "in each other"),
            (" ".repeat(MAX_EXPRESSION + 1).as_str(), "at most"),
        ] {
            let error = Expression::compile(source).expect_err(source);
            assert!(error.contains(part), "{source}: {error}");
        }
        assert!(Expression::compile("[row.a, row.b].filter(x, x != null)[0]").is_ok());
    }

    #[test]
    fn an_expression_that_runs_away_is_stopped() {
        let text = "长,".repeat(MAX_TEXT / 4);
        let columns = |source: &str| Expression::compile(source).expect(source).columns().len();
        let doubling = |step: &str| format!("size([row.a + row.a]{})", step.repeat(4));
        for source in [
            "row.a.split('').map(x, row.a.split('').map(y, x + y)).size()",
            "row.a.split('').exists(x, row.a.split('').exists(y, x + y == 'a'))",
            "row.a.split('').all(x, row.a.matches('^[长,]+$'))",
            "row.a.replace('', row.a).replace('', row.a)",
            "[row.a].map(x, x.replace('', x)).map(x, x.replace('', x)).size()",
            "'%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s'.format([row.a, row.a]).join('')",
            "row.a.split('').join(row.a)",
            &doubling(".map(x, x + x)"),
            &doubling(".map(x, [x, x])"),
            &format!("[[row.a + row.a]]{}.size()", ".map(x, x + x)".repeat(4)),
        ] {
            let started = std::time::Instant::now();
            let outcome = run(source, &vec![Some(Input::Text(&text)); columns(source)]);
            assert!(matches!(outcome, Err(Failure::Stopped | Failure::Evaluation)), "{source}: {outcome:?}");
            // Two seconds are far more than a slow machine's debug build takes; unbounded, these would take hours or all memory.
            assert!(started.elapsed().as_secs() < 2, "{source} took {:?}", started.elapsed());
        }
        assert_eq!(run("row.a.split(',').size()", &[Some(Input::Text(&text))]), Ok(Outcome::Integer(1_025)));
        let deep = format!("row.a{}", " + row.a".repeat(MAX_DEPTH - 3));
        assert_eq!(run(&deep, &[Some(Input::Text("甲"))]), Ok(Outcome::Text("甲".repeat(MAX_DEPTH - 2))), "as deep as may be");
    }

    #[test]
    fn what_is_charged_stays_what_it_was() {
        let text = Some(Input::Text("甲;乙;丙"));
        for (source, expected) in [
            ("row.a.split(';').map(x, x + '!').join('/')", Outcome::Text("甲!/乙!/丙!".to_owned())),
            ("row.a.split(';').filter(x, x != '乙').join('')", Outcome::Text("甲丙".to_owned())),
            ("row.a.split(';').exists_one(x, x == '乙')", Outcome::Boolean(true)),
            ("row.a.split(';').all(x, x.size() == 1)", Outcome::Boolean(true)),
            ("row.a.split(';').exists(x, x in ['乙'])", Outcome::Boolean(true)),
            ("row.a.split(';').map(x, x != '甲', [x, x].join(''))[1]", Outcome::Text("丙丙".to_owned())),
            ("{'甲': 1, '乙': 2}[row.a.split(';')[1]] + 1", Outcome::Integer(3)),
            ("has(row.a) ? '%s-%d'.format([row.a.charAt(0), 7]) : ''", Outcome::Text("甲-7".to_owned())),
            ("row.a.replace(';', '').matches('^[^\\\\d]+$')", Outcome::Boolean(true)),
        ] {
            assert_eq!(run(source, &[text]), Ok(expected), "{source}");
        }
        assert_eq!(run("row.a.matches('^\\\\d+$')", &[Some(Input::Text("٤٥"))]), Ok(Outcome::Boolean(false)), "digits of ASCII");
    }
}
