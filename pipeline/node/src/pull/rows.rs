//! Rows as they stand: all of them in pages with the cursor from which to go live, and one by its key.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, Uri};
use axum::response::Response;
use guitong_deliver::pull::{Cursor, Rows};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::admit::Caller;
use super::answer::{Form, cursor, limit, note, path};
use super::problem::Problem;
use crate::node::Shared;

/// Of a body of lines or of Avro records: where to go live, and the next page where there is one.
const LIVE: HeaderName = HeaderName::from_static("guitong-cursor");
const PAGE: HeaderName = HeaderName::from_static("guitong-page");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    page: Option<String>,
    limit: Option<u64>,
}

/// `GET /v1/subscriptions/{name}/snapshot`
pub(super) async fn snapshot(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let caller = Caller::admit(&shared, path(name)?, &headers).await?;
    let form = Form::accepted(&headers, &[Form::Json, Form::Lines, Form::Avro])?;
    let Query(wanted) = wanted.map_err(|error| Problem::invalid(error.body_text()))?;
    let page = wanted.page.as_deref().map(place).transpose()?;
    let page = page.as_ref().map(|(live, after)| (live, *after));
    let rows = caller.puller.snapshot(page, limit(wanted.limit)?).await.map_err(|error| caller.problem(error))?;
    caller.check()?;
    caller.count(rows.rows.len());
    let next = rows.next.map(|row| format!("{}-{row}", rows.live));
    let body = match form {
        Form::Lines => lines(&rows).into_bytes(),
        Form::Avro => caller.puller.avro_rows(&rows).map_err(|error| caller.problem(error))?,
        Form::Json | Form::Stream => return Ok(form.answer(caller, json(&rows, next.as_deref()))),
    };
    let mut response = form.answer(caller, body);
    note(&mut response, LIVE, &rows.live.to_string());
    next.iter().for_each(|next| note(&mut response, PAGE, next));
    Ok(response)
}

/// A page is named by the cursor to go live from and the row that it begins behind.
fn place(page: &str) -> Result<(Cursor, i64), Problem> {
    let row = page.rsplit_once('-').and_then(|(live, row)| Some((live, row.parse().ok().filter(|row| *row >= 0)?)));
    let (live, row) = row.ok_or_else(|| Problem::invalid("`page` is what an earlier page of the snapshot gave."))?;
    Ok((cursor(live)?, row))
}

/// `GET /v1/subscriptions/{name}/records/{key}`; the parts of a key of several are parts of the path.
pub(super) async fn record(
    State(shared): State<Arc<Shared>>,
    names: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = Caller::admit(&shared, path(names)?.0, &headers).await?;
    let form = Form::accepted(&headers, &[Form::Json])?;
    let key = uri.path().split_once("/records/").map_or("", |(_, key)| key);
    // That it is UTF-8 was seen above.
    let parts: Vec<String> = key.split('/').map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect();
    if parts.len() != caller.puller.key_parts() {
        let detail =
            format!("A key of this subscription has {} parts, one after the other in the path.", caller.puller.key_parts());
        return Err(Problem::invalid(detail));
    }
    let found = caller.puller.record(&parts).await.map_err(|error| caller.problem(error))?;
    let (key, record) = found.ok_or_else(Problem::no_record)?;
    caller.check()?;
    caller.count(1);
    Ok(form.answer(caller, format!("{{\"key\":{key},\"record\":{record}}}\n")))
}

fn json(rows: &Rows, next: Option<&str>) -> String {
    let mut out = String::from("{\"records\":[");
    for (at, (key, record)) in rows.rows.iter().enumerate() {
        let _ = write!(out, "{}{{\"key\":{key},\"record\":{record}}}", if at == 0 { "\n" } else { ",\n" });
    }
    let next = next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\""));
    // Writing to a text does not fail.
    let _ = writeln!(out, "],\"page\":{next},\"cursor\":\"{}\"}}", rows.live);
    out
}

fn lines(rows: &Rows) -> String {
    let mut out = String::new();
    for (key, record) in &rows.rows {
        let _ = writeln!(out, "{{\"key\":{key},\"record\":{record}}}");
    }
    out
}
