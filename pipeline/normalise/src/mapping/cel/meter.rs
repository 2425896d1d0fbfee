//! What an evaluation may use: every value that an expression makes is charged to a budget, and the first one beyond it ends the
//! evaluation with an error.
//!
//! CEL's interpreter knows no budget, so the expression is rewritten before it runs: each part whose value can cost anything stands in
//! a call that charges the value and hands it on. The names of these calls are no names in CEL, so no source can spell them.

use std::cell::Cell;

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, operators};
use cel::common::types::{CelString, DYN_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError, IdedExpr};

/// Steps of one evaluation; a step takes about a tenth of a microsecond.
const BUDGET: u64 = 200_000;
/// Bytes that a step can handle.
const BYTES_A_STEP: u64 = 8;
/// Largest value, in bytes; and largest argument of a function whose result is as large as a product of its arguments.
const MAX_VALUE: u64 = 64 << 10;
const MAX_FACTOR: u64 = 4 << 10;
/// Steps that compiling a regular expression counts for.
const PATTERN: u64 = 20_000;

const CHARGE: &str = "@charge";
const FACTOR: &str = "@factor";
const COMPILE: &str = "@compile";

/// Functions whose result is as large as a product of their arguments.
const GROWING: [&str; 3] = ["replace", "join", "format"];

thread_local! {
    /// What is left to the evaluation that runs on this thread.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Declares the calls that charge.
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(CHARGE, "charge", vec![DYN_TYPE], |args| charged(args, MAX_VALUE, 1))?;
    env.add_overload(FACTOR, "factor", vec![DYN_TYPE], |args| charged(args, MAX_FACTOR, 1))?;
    env.add_overload(COMPILE, "compile", vec![DYN_TYPE], |args| charged(args, MAX_FACTOR, PATTERN))
}

/// Begins an evaluation.
pub(super) fn begin() {
    LEFT.set(BUDGET);
}

/// Whether the evaluation was ended for what it used.
pub(super) fn is_spent() -> bool {
    LEFT.get() == 0
}

fn charged<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>, largest: u64, least: u64) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = args.pop().ok_or_else(|| ExecutionError::invalid_argument_count(1, 0))?;
    let size = size(value.as_ref());
    let cost = least + size / BYTES_A_STEP;
    let left = if size > largest { 0 } else { LEFT.get().saturating_sub(cost) };
    LEFT.set(left);
    if left == 0 { Err(ExecutionError::function_error("budget", "spent")) } else { Ok(value) }
}

/// Bytes of a value, items of lists included.
fn size(value: &dyn Val) -> u64 {
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        return text.inner().len() as u64;
    }
    let Some(list) = value.as_iterable() else { return BYTES_A_STEP };
    let (mut items, mut total) = (list.iter(), 0_u64);
    while let Some(item) = items.next() {
        total = total.saturating_add(BYTES_A_STEP).saturating_add(size(item));
    }
    total
}

/// The expression with what it makes charged.
pub(super) fn metered(expression: &IdedExpr) -> IdedExpr {
    Rewriting::default().whole(expression)
}

#[derive(Default)]
struct Rewriting {
    /// What loops gather in; the interpreter knows these parts by their shape, so they stay as they are.
    gathered: Vec<String>,
}

impl Rewriting {
    fn whole(&mut self, node: &IdedExpr) -> IdedExpr {
        let inside = self.inside(node);
        match &node.expr {
            Expr::Ident(name) if self.gathered.contains(name) || name == "row" => inside,
            Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => inside,
            Expr::Call(_) | Expr::Comprehension(_) | Expr::Ident(_) | Expr::List(_) | Expr::Select(_) => call(CHARGE, inside),
        }
    }

    /// The node itself, with what stands in it charged.
    fn inside(&mut self, node: &IdedExpr) -> IdedExpr {
        let expr = match &node.expr {
            Expr::Call(call) => Expr::Call(self.call(call)),
            Expr::Comprehension(all) => Expr::Comprehension(Box::new(self.comprehension(all))),
            Expr::List(list) => {
                let mut list = list.clone();
                list.elements = list.elements.iter().map(|element| self.whole(element)).collect();
                Expr::List(list)
            }
            Expr::Select(select) => {
                let mut select = select.clone();
                select.operand = Box::new(self.whole(&select.operand));
                Expr::Select(select)
            }
            // Maps hold literals alone.
            other => other.clone(),
        };
        IdedExpr { id: node.id, expr }
    }

    fn call(&mut self, made: &CallExpr) -> CallExpr {
        let growing = GROWING.contains(&made.func_name.as_str());
        let mut argument = |argument: &IdedExpr| {
            let whole = self.whole(argument);
            if growing { call(FACTOR, whole) } else { whole }
        };
        let target = made.target.as_deref().map(&mut argument).map(Box::new);
        let mut args: Vec<IdedExpr> = made.args.iter().map(argument).collect();
        if made.func_name == "matches"
            && let Some(pattern) = args.pop()
        {
            args.push(call(COMPILE, ascii(pattern)));
        }
        CallExpr { func_name: made.func_name.clone(), target, args }
    }

    fn comprehension(&mut self, all: &ComprehensionExpr) -> ComprehensionExpr {
        let iter_range = self.whole(&all.iter_range);
        let accu_init = all.accu_init.clone();
        self.gathered.push(all.accu_var.clone());
        let (loop_cond, loop_step) = (self.inside(&all.loop_cond), self.step(&all.loop_step));
        let result = self.inside(&all.result);
        self.gathered.pop();
        let (iter_var, iter_var2, accu_var) = (all.iter_var.clone(), all.iter_var2.clone(), all.accu_var.clone());
        ComprehensionExpr { iter_range, iter_var, iter_var2, accu_var, accu_init, loop_cond, loop_step, result }
    }

    /// `gathered + [item]`, alone or under a condition, which the interpreter appends in place; or any other step.
    fn step(&mut self, node: &IdedExpr) -> IdedExpr {
        let Expr::Call(made) = &node.expr else { return self.inside(node) };
        let args = match (made.func_name.as_str(), made.args.as_slice()) {
            (operators::ADD, [gathered, items]) => vec![gathered.clone(), self.inside(items)],
            (operators::CONDITIONAL, [guard, step, otherwise]) => {
                vec![self.whole(guard), self.step(step), otherwise.clone()]
            }
            _ => return self.inside(node),
        };
        IdedExpr { id: node.id, expr: Expr::Call(CallExpr { func_name: made.func_name.clone(), target: None, args }) }
    }
}

fn call(function: &str, argument: IdedExpr) -> IdedExpr {
    let made = CallExpr { func_name: function.to_owned(), target: None, args: vec![argument] };
    IdedExpr { id: 0, expr: Expr::Call(made) }
}

/// A pattern whose `\d` is 0 to 9, as in `extract`.
fn ascii(node: IdedExpr) -> IdedExpr {
    match &node.expr {
        Expr::Literal(LiteralValue::String(pattern)) => {
            let ascii = guitong_schemas::contract::mapping::ascii_digits(pattern.inner());
            IdedExpr { id: node.id, expr: Expr::Literal(LiteralValue::String(ascii.into())) }
        }
        _ => node,
    }
}
