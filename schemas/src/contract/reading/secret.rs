//! Secrets: `${env:NAME}` and `${file:PATH}` inside a text become a [`Secret`]; nothing here puts a value into a message.

use std::io::Read as _;
use std::path::Path;

use super::super::Secret;
use super::section::Environment;

/// More than any password, key or address needs.
const MAX_FILE: u64 = 64 << 10;

/// Why a secret could not be resolved.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::contract) enum SecretError {
    /// It is not there in this place; elsewhere it may be.
    Unset(String),
    /// The reference itself is wrong.
    Malformed(String),
}

/// Replaces every reference in `text`. Paths are relative to `root`; one newline at the end of a file is dropped.
pub(in crate::contract) fn resolve(text: &str, root: &Path, environment: Environment<'_>) -> Result<Secret, SecretError> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((head, tail)) = rest.split_once("${") {
        let (reference, after) =
            tail.split_once('}').ok_or_else(|| SecretError::Malformed("has a `${` that no `}` ends".to_owned()))?;
        out.push_str(head);
        out.push_str(&one(reference, root, environment)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(Secret::new(out))
}

fn one(reference: &str, root: &Path, environment: Environment<'_>) -> Result<String, SecretError> {
    match reference.split_once(':') {
        Some(("env", name)) if !name.is_empty() => match environment(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(SecretError::Unset(format!("environment variable {name} is not set"))),
        },
        Some(("file", path)) if !path.is_empty() => {
            let unset = |why: &dyn std::fmt::Display| SecretError::Unset(format!("file {path} cannot be read: {why}"));
            let file = std::fs::File::open(root.join(path)).map_err(|error| unset(&error))?;
            let mut text = String::new();
            let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| unset(&error))?;
            if read as u64 > MAX_FILE {
                return Err(SecretError::Malformed(format!("file {path} is larger than 64 KiB")));
            }
            let text = text.strip_suffix('\n').unwrap_or(&text);
            Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
        }
        _ => Err(SecretError::Malformed("has a reference that is neither ${env:NAME} nor ${file:PATH}".to_owned())),
    }
}

/// The parts of `text` that are no references: what must not be shown of it.
pub(in crate::contract) fn is_literal(text: &str) -> bool {
    !(text.starts_with("${") && text.ends_with('}') && text.matches("${").count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        (name == "PW").then(|| "geheim".to_owned())
    }

    #[test]
    fn references_are_replaced() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("key"), "abc\r\n").unwrap();
        let text = |text| resolve(text, root.path(), &environment).map(|secret| secret.reveal().to_owned());
        assert_eq!(text("postgres://u:${env:PW}@h/d"), Ok("postgres://u:geheim@h/d".to_owned()));
        assert_eq!(text("${file:key}-${env:PW}"), Ok("abc-geheim".to_owned()));
        assert_eq!(text("plain"), Ok("plain".to_owned()));
        assert_eq!(text("${env:NO}"), Err(SecretError::Unset("environment variable NO is not set".to_owned())));
        assert!(matches!(text("${file:none}"), Err(SecretError::Unset(_))));
        assert!(matches!(text("${vault:x}"), Err(SecretError::Malformed(_))));
        assert!(matches!(text("${env:PW"), Err(SecretError::Malformed(_))));
    }

    #[test]
    fn a_lone_reference_is_no_literal() {
        assert!(!is_literal("${env:PW}"));
        assert!(is_literal("${env:A}x${env:B}"));
        assert!(is_literal("postgres://u:pw@h/d"));
    }
}
