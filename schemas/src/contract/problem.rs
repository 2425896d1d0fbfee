//! What is wrong with an exchange directory: every problem with its place, its text and what would be right.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::resource::Place;

/// How much a problem weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It may go wrong: told, and refuses nothing.
    Warning,
    /// It will go wrong.
    Error,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// Stable name of the kind of problem, `unknown-field`.
    pub code: &'static str,
    pub message: String,
    /// Path below the directory's root with `/`, or the name of an environment variable.
    pub file: String,
    pub excerpt: Option<Excerpt>,
    /// What would be right; stands beside the caret.
    pub help: Option<String>,
}

/// The line a problem stands in. Secrets in it are already replaced by `***`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    pub place: Place,
    pub line: String,
    /// Columns of a terminal before the offending text.
    pub indent: usize,
    /// Columns of a terminal that the offending text takes, at least 1.
    pub width: usize,
}

/// Everything that is wrong with one directory, in the order of its files and lines. As an error it holds one at least, beside warnings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    pub list: Vec<Problem>,
    /// What is declared without a problem in its own file.
    pub well: Well,
}

/// Counts of files without a problem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Well {
    pub systems: usize,
    pub resources: usize,
    pub departments: usize,
    pub subscriptions: usize,
}

impl fmt::Display for Well {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        write!(
            f,
            "{}, {}, {} and {}",
            counted(self.departments, "department"),
            counted(self.systems, "system"),
            counted(self.resources, "resource"),
            counted(self.subscriptions, "subscription")
        )
    }
}

/// SGR sequences of a terminal, or nothing.
struct Paint {
    error: &'static str,
    warning: &'static str,
    place: &'static str,
    bold: &'static str,
    end: &'static str,
}

const PLAIN: Paint = Paint { error: "", warning: "", place: "", bold: "", end: "" };
const COLOURED: Paint =
    Paint { error: "\x1b[1;31m", warning: "\x1b[1;33m", place: "\x1b[1;34m", bold: "\x1b[1m", end: "\x1b[0m" };

impl Problems {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(move |problem| problem.severity == severity)
    }

    /// For a person, in the form of rustc's messages; ends with [`Problems::summary`].
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let mut out = render(&self.list, color);
        out.push_str(&self.summary());
        out.push('\n');
        out
    }

    /// `3 errors in 2 files and 1 warning; 5 departments, 5 systems, 14 resources and 31 subscriptions are well.`
    #[must_use]
    pub fn summary(&self) -> String {
        let files = self.of(Severity::Error).map(|problem| &problem.file).collect::<BTreeSet<_>>().len();
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let (errors, warnings) = (self.of(Severity::Error).count(), self.of(Severity::Warning).count());
        let mut found = format!("{errors} error{} in {files} file{}", plural(errors), plural(files));
        if warnings > 0 {
            found.push_str(&format!(" and {warnings} warning{}", plural(warnings)));
        }
        if self.well == Well::default() { format!("{found}.") } else { format!("{found}; {} are well.", self.well) }
    }

    /// `{"errors": [{"code", "message", "file", "line", "column", "text", "help"}], "warnings": […], "well": {…}}`; what a problem does
    /// not have is null.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let all = |severity| self.of(severity).map(Problem::to_json).collect::<Vec<_>>();
        json!({
            "errors": all(Severity::Error),
            "warnings": all(Severity::Warning),
            "well": {
                "departments": self.well.departments,
                "systems": self.well.systems,
                "resources": self.well.resources,
                "subscriptions": self.well.subscriptions,
            },
        })
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Problems {}

/// Problems for a person, in the form of rustc's messages.
#[must_use]
pub fn render(list: &[Problem], color: bool) -> String {
    let paint = if color { COLOURED } else { PLAIN };
    let mut out = String::new();
    list.iter().for_each(|problem| problem.render(&paint, &mut out));
    out
}

impl Problem {
    fn render(&self, paint: &Paint, out: &mut String) {
        let Paint { place, bold, end, .. } = paint;
        let (kind, painted) = match self.severity {
            Severity::Error => ("error", paint.error),
            Severity::Warning => ("warning", paint.warning),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{painted}{kind}[{}]{end}{bold}: {}{end}", self.code, self.message);
        let help = self.help.as_deref().unwrap_or_default();
        let Some(excerpt) = &self.excerpt else {
            let _ = writeln!(out, "  {place}-->{end} {}", self.file);
            if !help.is_empty() {
                let _ = writeln!(out, "   {place}={end} {help}");
            }
            return;
        };
        let Place { line, column } = excerpt.place;
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        let _ = writeln!(out, "{gutter} {place}-->{end} {}:{line}:{column}", self.file);
        let _ = writeln!(out, "{place}{number} |{end} {}", excerpt.line);
        let carets = "^".repeat(excerpt.width);
        let pointed = format!("{}{painted}{carets}{end} {help}", " ".repeat(excerpt.indent));
        let _ = writeln!(out, "{place}{gutter} |{end} {}", pointed.trim_end());
    }

    /// `{"code", "message", "file", "line", "column", "text", "help"}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let place = self.excerpt.as_ref().map(|excerpt| excerpt.place);
        json!({
            "code": self.code,
            "message": self.message,
            "file": self.file,
            "line": place.map(|place| place.line),
            "column": place.map(|place| place.column),
            "text": self.excerpt.as_ref().map(|excerpt| excerpt.line.as_str()),
            "help": self.help,
        })
    }
}
