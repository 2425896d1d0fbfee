//! Arrays in PostgreSQL's text form.
//!
//! Avro's items have one type, so an array of more dimensions, or whose lower bounds are not 1, is written as its elements in row-major
//! order, the last dimension fastest, as PostgreSQL's `unnest` gives them; its dimensions ([`dimensions`]) are told beside it. The two
//! together are the whole value.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::super::varint::{prefix_long, write_long};
use super::cell::Wire;
use super::{Bad, Fit};

pub(super) fn write(items: &Wire, text: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
    let (bounds, body) = parts(text).ok_or(Bad::new("an array's bounds do not end", 0))?;
    let start = out.len();
    let (mut count, mut depth, mut deepest, mut fit) = (0, 0_usize, 0_usize, Fit::Exact);
    // Whether an element or an inner array may come.
    let (mut ready, mut rest) = (true, body);
    loop {
        let at = text.len() - rest.len();
        match rest {
            [b'{', after @ ..] if ready => (depth, deepest, rest) = (depth + 1, deepest.max(depth + 1), after),
            [b'}', after @ ..] if depth > 0 && (!ready || body == b"{}") => (depth, ready, rest) = (depth - 1, false, after),
            [b',', after @ ..] if depth > 0 && !ready => (ready, rest) = (true, after),
            [] if depth == 0 && !ready => break,
            _ if depth == 0 || !ready => return Err(Bad::new("no array", at)),
            _ => {
                let (element, after) = next(rest).ok_or(Bad::new("an array element does not end", at))?;
                if !write_element(items, element, out).map_err(|bad| Bad::new(bad.what, at))? {
                    fit = Fit::Partly;
                }
                (count, ready, rest) = (count + 1, false, after);
            }
        }
    }
    if count > 0 {
        prefix_long(out, start, count);
    }
    write_long(out, 0);
    Ok(match fit {
        Fit::Exact if deepest > 1 || bounds.is_some() => Fit::Shaped,
        Fit::Partly if deepest > 1 || bounds.is_some() => Fit::Unfit,
        fit => fit,
    })
}

/// One item; `false` where its type cannot hold it.
fn write_element(items: &Wire, element: Option<Cow<'_, [u8]>>, out: &mut Vec<u8>) -> Result<bool, Bad> {
    let Some(value) = element else {
        write_long(out, 0);
        return Ok(true);
    };
    let item = out.len();
    write_long(out, 1);
    let fits = items.text(&value, out)? != Fit::Unfit;
    if !fits {
        out.truncate(item);
        write_long(out, 0);
    }
    Ok(fits)
}

/// Dimensions of an array as PostgreSQL's `array_dims` gives them, `[1:2][1:3]`; of a text that [`write`] took.
pub(super) fn dimensions(text: &[u8]) -> String {
    let Some((bounds, body)) = parts(text) else { return String::new() };
    if let Some(bounds) = bounds {
        return String::from_utf8_lossy(bounds).into_owned();
    }
    // Arrays of each depth, and their commas; all of one depth are equally long.
    let (mut counts, mut depth, mut rest) = (Vec::<(usize, usize)>::new(), 0_usize, body);
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'"' => {
                rest = next(rest).map_or(b"".as_slice(), |(_, after)| after);
                continue;
            }
            b'{' => {
                depth += 1;
                counts.resize(counts.len().max(depth), (0, 0));
                counts.iter_mut().skip(depth - 1).take(1).for_each(|(arrays, _)| *arrays += 1);
            }
            b'}' => depth = depth.saturating_sub(1),
            b',' => counts.iter_mut().skip(depth.saturating_sub(1)).take(1).for_each(|(_, commas)| *commas += 1),
            _ => {}
        }
        rest = after;
    }
    let lengths = counts.iter().map(|(arrays, commas)| commas / arrays.max(&1) + 1);
    lengths.fold(String::new(), |mut out, length| {
        let _ = write!(out, "[1:{length}]");
        out
    })
}

/// The bounds that stand before an array where one of them is not 1, and the array.
fn parts(text: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    if text.first() != Some(&b'[') {
        return Some((None, text));
    }
    let end = text.iter().position(|&byte| byte == b'=')?;
    Some((Some(&text[..end]), &text[end + 1..]))
}

/// The element at the front of `text` (`None` inside for NULL) and what follows it.
type Element<'a> = (Option<Cow<'a, [u8]>>, &'a [u8]);

fn next(text: &[u8]) -> Option<Element<'_>> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| matches!(byte, b',' | b'}'))?;
        let (element, rest) = text.split_at(end);
        let value = if element.eq_ignore_ascii_case(b"NULL") { None } else { Some(Cow::Borrowed(element)) };
        return Some((value, rest)).filter(|_| !element.is_empty());
    };
    let end = quoted.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    if quoted.get(end) == Some(&b'"') {
        return Some((Some(Cow::Borrowed(&quoted[..end])), &quoted[end + 1..]));
    }
    let mut value = quoted[..end].to_vec();
    let mut bytes = quoted.iter().enumerate().skip(end);
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => return Some((Some(Cow::Owned(value)), &quoted[at + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(byte),
        }
    }
    None
}
