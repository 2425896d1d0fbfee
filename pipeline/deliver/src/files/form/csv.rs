//! CSV as RFC 4180 has it, for machines and for a clerk who opens it in Excel or WPS.
//!
//! Lines end with CRLF; a value with a comma, a quote or a line end stands in quotes, and quotes in it are doubled. A null is
//! nothing at all, an empty text is `""`. Items of a list are joined by `;`, steps of a case are JSON.
//!
//! A text that begins with `=`, `+`, `-`, `@`, a tab or a line end is calculated by spreadsheets, so whoever fills in a form could have
//! a clerk's machine do things. Such a text gets an apostrophe in front unless the sink says `formulas = "as-they-are"`; so does a
//! text that begins with an apostrophe, so that who takes one away in front of every text has what was sent. Numbers and dates are
//! none of these texts and stay as they are.
//!
//! GB18030 has every character of Unicode but U+E5E5, a private one that the Encoding Standard gives no bytes; no CSV can hold
//! U+0000, at which spreadsheets cut. A record with either is refused, never changed. 18 other private characters, which stood for
//! characters that Unicode did not have yet, have the bytes of those characters (GB 18030-2022), and are read as these.

use encoding_rs::{Encoder, EncoderResult, GB18030};
use guitong_schemas::contract::files::{Csv, Encoding, Formulas, Header};
use guitong_schemas::standard::StandardValue;

use super::{Noted, OPERATION, POSITION, operation};
use crate::sink::{SinkError, SinkErrorKind, SinkPlan};
use crate::sql::KEY;

/// What GB18030 has no bytes for (Encoding Standard, "gb18030 encoder").
const NOT_IN_GB18030: char = '\u{E5E5}';
/// The byte order mark in UTF-8.
const MARK: &[u8] = b"\xEF\xBB\xBF";

/// Titles of the columns that files have beside what is granted.
const OPERATION_TITLE: &str = "操作";
const POSITION_TITLE: &str = "序号";
const KEY_TITLE: &str = "数据标识";

#[derive(Debug)]
pub(crate) struct CsvForm {
    csv: Csv,
    header: Vec<String>,
    /// Names of the granted columns.
    names: Vec<String>,
}

impl CsvForm {
    pub(super) fn new(csv: Csv, plan: &SinkPlan) -> Self {
        let titled = csv.header == Header::Titles;
        let own = |name: &str, title: &str| if titled { title.to_owned() } else { name.to_owned() };
        let mut header = vec![own(OPERATION, OPERATION_TITLE), own(POSITION, POSITION_TITLE)];
        if plan.key == guitong_govern::KeyForm::Hashed {
            header.push(own(KEY, KEY_TITLE));
        }
        header.extend(plan.columns.iter().map(|column| own(&column.name, &column.title)));
        Self { csv, header, names: super::names(&plan.columns) }
    }

    pub(super) fn encoding(&self) -> &'static str {
        match self.csv.encoding {
            Encoding::Utf8Marked | Encoding::Utf8 => "utf-8",
            Encoding::Gb18030 => "gb18030",
        }
    }

    /// Names the column and the character, and nothing else of the value.
    pub(super) fn check(&self, cells: &[StandardValue<'_>]) -> Result<(), SinkError> {
        for (name, cell) in self.names.iter().zip(cells) {
            let bad = match cell {
                StandardValue::Text(text) => self.bad(text),
                StandardValue::TextList(items) => items.iter().find_map(|item| self.bad(item)),
                StandardValue::Steps(steps) => self.bad(&crate::json::steps(steps).to_string()),
                _ => None,
            };
            if let Some(why) = bad {
                return Err(SinkError::new(SinkErrorKind::Data, format!("column {name} holds {why}")));
            }
        }
        Ok(())
    }

    fn bad(&self, text: &str) -> Option<&'static str> {
        if text.contains('\0') {
            return Some("U+0000, which CSV cannot");
        }
        let missing = self.csv.encoding == Encoding::Gb18030 && text.contains(NOT_IN_GB18030);
        missing.then_some("U+E5E5, for which GB18030 has no bytes")
    }

    pub(super) fn begin(&self, out: &mut Vec<u8>) -> Result<(), SinkError> {
        if self.csv.encoding == Encoding::Utf8Marked {
            out.extend_from_slice(MARK);
        }
        let mut line = String::new();
        for title in &self.header {
            field(&mut line, title);
        }
        self.end(line, out)
    }

    pub(super) fn write(&self, noted: &Noted, out: &mut Vec<u8>) -> Result<(), SinkError> {
        let mut line = String::new();
        field(&mut line, operation(noted.deleted));
        field(&mut line, &noted.position.to_string());
        if let Some(key) = &noted.key {
            field(&mut line, &hex::encode(key));
        }
        for cell in &noted.cells {
            match cell {
                StandardValue::Null => line.push(','),
                StandardValue::Text(text) => self.text(&mut line, text),
                StandardValue::TextList(_) => self.text(&mut line, &cell.to_string()),
                StandardValue::Steps(steps) => field(&mut line, &crate::json::steps(steps).to_string()),
                StandardValue::Int(_) | StandardValue::Date(_) | StandardValue::Time(_) | StandardValue::Decimal { .. } => {
                    field(&mut line, &cell.to_string());
                }
            }
        }
        self.end(line, out)
    }

    fn text(&self, line: &mut String, text: &str) {
        let calculated = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\'']);
        if calculated && self.csv.formulas == Formulas::Escaped {
            field(line, &format!("'{text}"));
        } else {
            field(line, text);
        }
    }

    /// Appends the line, each of whose fields ends with a comma.
    fn end(&self, mut line: String, out: &mut Vec<u8>) -> Result<(), SinkError> {
        line.pop();
        line.push_str("\r\n");
        match self.csv.encoding {
            Encoding::Utf8Marked | Encoding::Utf8 => out.extend_from_slice(line.as_bytes()),
            Encoding::Gb18030 => encode(&mut GB18030.new_encoder(), &line, out)?,
        }
        Ok(())
    }
}

fn encode(encoder: &mut Encoder, mut text: &str, out: &mut Vec<u8>) -> Result<(), SinkError> {
    loop {
        let room = encoder.max_buffer_length_from_utf8_without_replacement(text.len()).unwrap_or(text.len());
        out.reserve(room);
        let (result, read) = encoder.encode_from_utf8_to_vec_without_replacement(text, out, true);
        match result {
            EncoderResult::InputEmpty => return Ok(()),
            EncoderResult::OutputFull => text = text.get(read..).unwrap_or_default(),
            EncoderResult::Unmappable(character) => {
                let code = u32::from(character);
                return Err(super::super::damaged(format!("it holds U+{code:04X}, for which GB18030 has no bytes")));
            }
        }
    }
}

/// Appends a value that is there, and a comma.
fn field(line: &mut String, text: &str) {
    if text.is_empty() || text.contains(['"', ',', '\r', '\n']) {
        line.push('"');
        line.push_str(&text.replace('"', "\"\""));
        line.push('"');
    } else {
        line.push_str(text);
    }
    line.push(',');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(encoding: Encoding, formulas: Formulas) -> CsvForm {
        let names = vec!["name".to_owned(), "amount".to_owned()];
        CsvForm { csv: Csv { encoding, header: Header::Names, formulas }, header: names.clone(), names }
    }

    fn written(form: &CsvForm, cells: Vec<StandardValue<'static>>) -> Vec<u8> {
        let mut out = Vec::new();
        form.write(&Noted { position: 7, deleted: false, key: None, cells }, &mut out).unwrap();
        out
    }

    #[test]
    fn every_value_is_read_back_as_it_was() {
        let form = form(Encoding::Utf8, Formulas::AsTheyAre);
        let texts = ["a,b", "say \"hi\"", "two\r\nlines", "\n", "", " ", "=1+1", "'", "，；", "\"", ";"];
        for text in texts {
            let out = written(&form, vec![StandardValue::Text(text.into()), StandardValue::Decimal { unscaled: -150, scale: 2 }]);
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(out.as_slice());
            let records: Vec<_> = reader.records().map(Result::unwrap).collect();
            assert_eq!(records.len(), 1, "{text:?}");
            assert_eq!(records[0].iter().collect::<Vec<_>>(), ["upsert", "7", text, "-1.50"]);
        }
        assert_eq!(written(&form, vec![StandardValue::Null, StandardValue::Text("".into())]), b"upsert,7,,\"\"\r\n");
    }

    #[test]
    fn what_a_spreadsheet_would_calculate_is_text_and_can_be_read_back() {
        let form = form(Encoding::Utf8, Formulas::Escaped);
        for text in ["=1+1", "+86", "-x", "@SUM(A1)", "\tx", "\rx", "'quoted", "plain", "1-2", ""] {
            let out = written(&form, vec![StandardValue::Text(text.into()), StandardValue::Decimal { unscaled: -150, scale: 2 }]);
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(out.as_slice());
            let record = reader.records().next().unwrap().unwrap();
            assert!(!record[2].starts_with(['=', '+', '-', '@', '\t', '\r', '\n']), "{text:?}");
            assert_eq!(record[2].strip_prefix('\'').unwrap_or(&record[2]), text);
            assert_eq!(&record[3], "-1.50", "a number stays one");
        }
    }

    #[test]
    fn gb18030_has_every_character_but_one() {
        let form = form(Encoding::Gb18030, Formulas::AsTheyAre);
        let mut all = String::new();
        for character in (1..=0x0010_FFFF).filter_map(char::from_u32) {
            match form.bad(character.encode_utf8(&mut [0; 4])) {
                None => all.push(character),
                Some(_) => assert_eq!(character, NOT_IN_GB18030),
            }
        }
        let mut out = Vec::new();
        encode(&mut GB18030.new_encoder(), &all, &mut out).unwrap();
        let (text, damaged) = GB18030.decode_without_bom_handling(&out);
        assert!(!damaged);
        let changed: Vec<char> = all.chars().zip(text.chars()).filter(|(was, is)| was != is).map(|(was, _)| was).collect();
        assert!(changed.iter().all(|character| ('\u{E000}'..='\u{F8FF}').contains(character)), "{changed:?}");
        assert_eq!(changed.len(), 18, "{changed:?}");
        assert!(form.check(&[StandardValue::Text("a\u{E5E5}".into())]).is_err());
        assert!(form.check(&[StandardValue::TextList(vec!["a".into(), "\0".into()])]).is_err());
    }

    #[test]
    fn chinese_titles_stand_in_front_with_the_mark_that_excel_wants() {
        let mut form = form(Encoding::Utf8Marked, Formulas::Escaped);
        form.header = vec![OPERATION_TITLE.to_owned(), "机构名称".to_owned()];
        let mut out = Vec::new();
        form.begin(&mut out).unwrap();
        assert_eq!(out, "\u{FEFF}操作,机构名称\r\n".as_bytes());
        form.csv.encoding = Encoding::Gb18030;
        out.clear();
        form.begin(&mut out).unwrap();
        assert_eq!(out, b"\xB2\xD9\xD7\xF7,\xBB\xFA\xB9\xB9\xC3\xFB\xB3\xC6\r\n");
    }
}
