//! A SQL script, statement by statement, as `psql` would run it.

/// Statements without their semicolons and comments; text in quotes stays as it is.
#[must_use]
pub(super) fn statements(script: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut statement = String::new();
    let mut rest = script;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            ';' => {
                out.push(std::mem::take(&mut statement));
                rest = &rest[1..];
                continue;
            }
            '-' if rest.starts_with("--") => {
                rest = rest.find('\n').map_or("", |end| &rest[end..]);
                continue;
            }
            '\'' | '"' => quoted(rest, c, c == '\'' && statement.ends_with(['E', 'e'])),
            c => c.len_utf8(),
        };
        statement.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.push(statement);
    out.into_iter().map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

/// Bytes of the quoted text at the front; a doubled quote reads as two texts, which together are the same bytes.
fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' && escapes {
            chars.next();
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Whether the statement only waits.
#[must_use]
pub(super) fn is_sleep(statement: &str) -> bool {
    statement.to_ascii_lowercase().starts_with("select pg_sleep(")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_text_names_and_comments_end_nothing() {
        let script = "select 'a;''b'; -- one; two\ninsert into \"odd;name\" values (E'\\';'); ; select pg_sleep(2)";
        let found = statements(script);
        assert_eq!(found, ["select 'a;''b'", "insert into \"odd;name\" values (E'\\';')", "select pg_sleep(2)"]);
        assert!(is_sleep(&found[2]) && !is_sleep(&found[0]));
    }
}
