//! JSON text as a value that says how it was written: what a reader would make one of (`1.0` and `1.00`, an escape and its
//! character) stays apart.

use serde_json::Value as Json;

use super::Failure;

/// The text's value. A number with more than digits and a string with an escape are `{"$text": ..}`, as they stand in the text.
pub(super) fn read(text: &str) -> Result<Json, Failure> {
    let fail = |why: &str| Failure::new(format!("{why}: {text}"));
    let mut marked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => 1 + end_of_string(&rest[1..]).ok_or_else(|| fail("a string does not end"))?,
            '-' | '0'..='9' => rest.find([',', '}', ']']).unwrap_or(rest.len()),
            c if c.is_whitespace() => return Err(fail("white space between values")),
            c => c.len_utf8(),
        };
        let (part, after) = rest.split_at(length);
        let is_plain = match first {
            '"' => !part.contains('\\'),
            '-' | '0'..='9' => !part.contains(['.', 'e', 'E']),
            _ => true,
        };
        if is_plain || after.starts_with(':') {
            marked.push_str(part);
        } else {
            marked.push_str(&serde_json::json!({"$text": part}).to_string());
        }
        rest = after;
    }
    serde_json::from_str(&marked).map_err(|error| fail(&error.to_string()))
}

/// Where the string at whose first character `text` begins ends, its last quote included.
fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at + 1)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_differently_is_different() {
        let read = |text| read(text).unwrap();
        assert_eq!(read(r#"{"a":-12,"b":["x",null,true]}"#), json!({"a": -12, "b": ["x", null, true]}));
        assert_eq!(read(r#"{"a\"":1.0E20,"b":"x\\"}"#), json!({"a\"": {"$text": "1.0E20"}, "b": {"$text": "\"x\\\\\""}}));
        assert_ne!(read("[1.0]"), read("[1.00]"));
        assert_ne!(read(r#"["\u0041"]"#), read(r#"["A"]"#));
        for text in [r#"{"a": 1}"#, r#"{"a":"x"#, "{]"] {
            assert!(super::read(text).is_err(), "{text}");
        }
    }
}
