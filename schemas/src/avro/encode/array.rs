//! One-dimensional arrays in PostgreSQL's text form.
//!
//! Avro's items have one type, so an array of more dimensions or with a lower bound other than 1 has no form here: it is unfit
//! (null, and named in the lossy columns). A source declares a column of such arrays as text, which keeps them whole.

use std::borrow::Cow;

use super::super::varint::{prefix_long, write_long};
use super::cell::Wire;
use super::{Bad, Fit};

pub(super) fn write(items: &Wire, text: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
    if text.first() == Some(&b'[') {
        return Ok(Fit::Unfit);
    }
    let body = text.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).ok_or(Bad::new("no array", 0))?;
    let start = out.len();
    let mut count = 0;
    let mut fit = Fit::Exact;
    let mut rest = body;
    while !rest.is_empty() {
        let at = 1 + body.len() - rest.len();
        if rest.first() == Some(&b'{') {
            return Ok(Fit::Unfit);
        }
        let (element, after) = next(rest).ok_or(Bad::new("an array element does not end", at))?;
        match element {
            None => write_long(out, 0),
            Some(value) => {
                let item = out.len();
                write_long(out, 1);
                if items.text(&value, out).map_err(|bad| Bad::new(bad.what, at))? == Fit::Unfit {
                    out.truncate(item);
                    write_long(out, 0);
                    fit = Fit::Partly;
                }
            }
        }
        count += 1;
        rest = after;
    }
    if count > 0 {
        prefix_long(out, start, count);
    }
    write_long(out, 0);
    Ok(fit)
}

/// The element at the front of `text` (`None` inside for NULL) and what follows its comma.
type Element<'a> = (Option<Cow<'a, [u8]>>, &'a [u8]);

fn next(text: &[u8]) -> Option<Element<'_>> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|&byte| byte == b',').unwrap_or(text.len());
        let (element, rest) = text.split_at(end);
        let value = if element.eq_ignore_ascii_case(b"NULL") { None } else { Some(Cow::Borrowed(element)) };
        return after_comma(rest).filter(|_| !element.is_empty()).map(|rest| (value, rest));
    };
    let end = quoted.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    if quoted.get(end) == Some(&b'"') {
        return Some((Some(Cow::Borrowed(&quoted[..end])), after_comma(&quoted[end + 1..])?));
    }
    let mut value = quoted[..end].to_vec();
    let mut bytes = quoted.iter().enumerate().skip(end);
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => return Some((Some(Cow::Owned(value)), after_comma(&quoted[at + 1..])?)),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(byte),
        }
    }
    None
}

fn after_comma(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [] => Some(rest),
        [b',', rest @ ..] if !rest.is_empty() => Some(rest),
        _ => None,
    }
}
