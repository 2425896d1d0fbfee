//! One file of the directory: its text, the places in it, and the parts that must not be shown.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::super::problem::{Excerpt, Problem, Severity};
use super::super::resource::Place;

/// Columns of a line that are shown; longer lines are cut around the offending text.
const SHOWN: usize = 140;

/// A file's text and what of it is secret.
#[derive(Debug)]
pub(crate) struct Document {
    /// Path below the root, with `/`.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Byte offsets of line starts.
    starts: Vec<usize>,
    hidden: OnceCell<Vec<Range<usize>>>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    /// Bytes of the file.
    Span(Range<usize>),
    /// An environment variable.
    Variable(String),
    /// The file as a whole.
    File,
}

/// A value and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) at: At,
}

/// Where problems are gathered.
#[derive(Debug, Default)]
pub(crate) struct Report(RefCell<Vec<Problem>>);

impl Report {
    pub(crate) fn push(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    pub(crate) fn into_list(self) -> Vec<Problem> {
        self.0.into_inner()
    }

    /// Whether a file has an error.
    pub(crate) fn refuses(&self, file: &str) -> bool {
        self.0.borrow().iter().any(|problem| problem.file == file && problem.severity == Severity::Error)
    }

    /// Whether any file has one.
    pub(crate) fn refuses_any(&self) -> bool {
        self.0.borrow().iter().any(|problem| problem.severity == Severity::Error)
    }
}

impl Document {
    pub(crate) fn new(name: String, text: String) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name, text, starts, hidden: OnceCell::new() }
    }

    /// Keeps bytes of the text out of every excerpt. Said once, before the first excerpt.
    pub(crate) fn hide(&self, spans: impl IntoIterator<Item = Range<usize>>) {
        self.hidden.get_or_init(|| spans.into_iter().collect());
    }

    /// The 1-based line and column, in characters, of a byte.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(1, |head| head.chars().count() + 1);
        Place { line, column }
    }

    pub(crate) fn problem(&self, at: &At, code: &'static str, message: String, help: Option<String>) -> Problem {
        let (file, excerpt) = match at {
            At::Span(span) => (self.name.clone(), Some(self.excerpt(span))),
            At::Variable(name) => (format!("environment variable {name}"), None),
            At::File => (self.name.clone(), None),
        };
        Problem { severity: Severity::Error, code, message, file, excerpt, help }
    }

    fn excerpt(&self, span: &Range<usize>) -> Excerpt {
        let place = self.place(span.start);
        let start = self.starts.get(place.line.saturating_sub(1)).copied().unwrap_or(0);
        let line = self.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let (mut shown, mut column) = (String::new(), 0);
        let (mut from, mut to) = (None, None);
        let mut hiding = false;
        for (at, character) in line.char_indices().map(|(at, character)| (start + at, character)) {
            if at >= span.start && from.is_none() {
                from = Some(column);
            }
            if at >= span.end && to.is_none() {
                to = Some(column);
            }
            let hide = self.hidden.get().is_some_and(|spans| spans.iter().any(|hidden| hidden.contains(&at)));
            if hide && hiding {
                continue;
            }
            hiding = hide;
            let first = shown.len();
            match character {
                _ if hide => shown.push_str("***"),
                control if control.is_control() => shown.push(' '),
                other => shown.push(other),
            }
            column += shown.get(first..).map_or(0, UnicodeWidthStr::width);
        }
        let indent = from.unwrap_or(column);
        let width = to.unwrap_or(column).saturating_sub(indent).max(1);
        cut(Excerpt { place, line: shown, indent, width })
    }
}

/// Shows at most [`SHOWN`] columns of the line.
fn cut(excerpt: Excerpt) -> Excerpt {
    let columns = |c: char| c.width().unwrap_or(0);
    if excerpt.line.chars().map(columns).sum::<usize>() <= SHOWN {
        return excerpt;
    }
    let skip = if excerpt.indent + excerpt.width.min(SHOWN / 2) < SHOWN { 0 } else { excerpt.indent.saturating_sub(SHOWN / 4) };
    let (mut line, mut column, mut skipped) = (String::new(), 0, 0);
    for character in excerpt.line.chars() {
        if column < skip {
            skipped += columns(character);
        } else if column < skip + SHOWN {
            line.push(character);
        }
        column += columns(character);
    }
    let lead = if skip > 0 { "…" } else { "" };
    let indent = excerpt.indent - skipped + lead.chars().count();
    let width = excerpt.width.min(SHOWN.saturating_sub(indent)).max(1);
    Excerpt { place: excerpt.place, line: format!("{lead}{}…", line.trim_end()), indent, width }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_carets_count_terminal_columns() {
        let document = Document::new("a.toml".into(), "x = 1\n企业 = \"登记\" # 注\n".into());
        let start = document.text.find("\"登").unwrap();
        let excerpt = document.excerpt(&(start..start + 8));
        assert_eq!((excerpt.place.line, excerpt.place.column), (2, 6));
        assert_eq!((excerpt.indent, excerpt.width), (7, 6));
    }

    #[test]
    fn hidden_text_is_not_shown_and_the_caret_still_fits() {
        let document = Document::new("a.toml".into(), "sink = { url = \"postgres://u:pw@h/d\", tabel = 1 }".into());
        let url = document.text.find("postgres").unwrap();
        document.hide(std::iter::once(url..url + 19));
        let key = document.text.find("tabel").unwrap();
        let excerpt = document.excerpt(&(key..key + 5));
        assert_eq!(excerpt.line, "sink = { url = \"***\", tabel = 1 }");
        assert_eq!(&excerpt.line[excerpt.indent..excerpt.indent + excerpt.width], "tabel");
        assert_eq!(excerpt.place.column, key + 1);
    }

    #[test]
    fn long_lines_are_cut_around_the_text() {
        let document = Document::new("a.toml".into(), format!("{}WRONG{}", "a".repeat(1000), "b".repeat(1000)));
        let excerpt = document.excerpt(&(1000..1005));
        assert!(excerpt.line.chars().count() <= SHOWN + 2);
        let shown: String = excerpt.line.chars().skip(excerpt.indent).take(excerpt.width).collect();
        assert_eq!(shown, "WRONG");
    }
}
