//! What kind of value a CEL expression gives, as far as its text alone tells: a column can hold anything.

use std::fmt;

use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::contract) enum Kind {
    Truth,
    Number,
    Text,
    List,
    Map,
    Bytes,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truth => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Bytes => "bytes",
        })
    }
}

/// The kind of an expression's value; `None` where it depends on the row, or is null.
pub(in crate::contract) fn of(expr: &Expr) -> Option<Kind> {
    match expr {
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(_) => Some(Kind::Truth),
            LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Some(Kind::Number),
            LiteralValue::String(_) => Some(Kind::Text),
            LiteralValue::Bytes(_) => Some(Kind::Bytes),
            LiteralValue::Null => None,
        },
        Expr::List(_) => Some(Kind::List),
        Expr::Map(_) | Expr::Struct(_) => Some(Kind::Map),
        Expr::Select(select) => select.test.then_some(Kind::Truth),
        Expr::Comprehension(all) => of(&all.accu_init.expr),
        Expr::Call(call) => of_call(call),
        Expr::Ident(_) | Expr::Unspecified => None,
    }
}

fn of_call(call: &CallExpr) -> Option<Kind> {
    let argument = |at: usize| call.args.get(at).and_then(|argument| of(&argument.expr));
    match call.func_name.as_str() {
        operators::CONDITIONAL => argument(1).filter(|kind| argument(2) == Some(*kind)),
        operators::LOGICAL_AND
        | operators::LOGICAL_OR
        | operators::LOGICAL_NOT
        | operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS
        | operators::IN
        | "bool"
        | "contains"
        | "endsWith"
        | "matches"
        | "startsWith" => Some(Kind::Truth),
        // Both sides of an addition are of one kind.
        operators::ADD => argument(0).or_else(|| argument(1)),
        operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO | operators::NEGATE => {
            Some(Kind::Number)
        }
        "double" | "int" | "uint" | "size" | "indexOf" | "lastIndexOf" => Some(Kind::Number),
        "string" | "charAt" | "format" | "join" | "lowerAscii" | "replace" | "reverse" | "substring" | "trim" | "upperAscii" => {
            Some(Kind::Text)
        }
        "split" => Some(Kind::List),
        "bytes" => Some(Kind::Bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cel::Program;

    use super::*;

    #[test]
    fn a_kind_is_told_where_the_row_does_not_decide_it() {
        for (source, kind) in [
            ("row.a == '1' && has(row.b)", Some(Kind::Truth)),
            ("row.a in ['1']", Some(Kind::Truth)),
            ("row.a.split(';').exists(x, x == '1')", Some(Kind::Truth)),
            ("row.a.split(';').map(x, x + '1')", Some(Kind::List)),
            ("row.a.split(';')[0]", None),
            ("row.a + '1'", Some(Kind::Text)),
            ("row.a == null ? '无' : row.a", None),
            ("row.a == null ? 1 : size(row.a)", Some(Kind::Number)),
            ("row.a", None),
            ("{'1': 2}", Some(Kind::Map)),
        ] {
            assert_eq!(of(&Program::compile(source).expect(source).expression().expr), kind, "{source}");
        }
    }
}
