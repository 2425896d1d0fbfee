//! Changes by cursor: a page at once or when something comes, a stream of them, and what a subscriber acknowledges.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use guitong_deliver::pull::{Cursor, Event, Page};
use guitong_schemas::standard::StandardValue;
use serde::Deserialize;
use tokio::time::Instant;

use super::admit::Caller;
use super::answer::{Form, cursor, limit, note, path, within};
use super::problem::Problem;
use super::stream;
use crate::node::Shared;

/// Seconds that a request may wait for changes.
const LONGEST: u64 = 60;
/// Where a page of lines or of Avro records goes on; each has its own cursor as well.
const NEXT: HeaderName = HeaderName::from_static("guitong-next");
/// What a browser's event source says when it comes back.
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    after: Option<String>,
    limit: Option<u64>,
    wait: Option<u64>,
}

/// `GET /v1/subscriptions/{name}/events`
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let caller = Caller::admit(&shared, path(name)?, &headers).await?;
    let form = Form::accepted(&headers, &[Form::Json, Form::Lines, Form::Avro, Form::Stream])?;
    let Query(wanted) = wanted.map_err(|error| Problem::invalid(error.body_text()))?;
    let resumed = headers.get(LAST_EVENT).map(|last| last.to_str().unwrap_or_default());
    let after = resumed.or(wanted.after.as_deref()).map(cursor).transpose()?;
    let limit = limit(wanted.limit)?;
    let wait = Duration::from_secs(within("wait", wanted.wait.unwrap_or(0), 0, LONGEST)?);
    if form == Form::Stream {
        return stream::open(caller, after, limit).await;
    }
    let page = page(&caller, after.as_ref(), limit, wait).await?;
    caller.check()?;
    caller.count(page.events.len());
    Ok(match form {
        Form::Lines => {
            let mut response = form.answer(caller, lines(&page));
            note(&mut response, NEXT, &page.next.to_string());
            response
        }
        Form::Avro => {
            let file = caller.puller.avro_changes(&page).map_err(|error| caller.problem(error))?;
            let mut response = form.answer(caller, file);
            note(&mut response, NEXT, &page.next.to_string());
            response
        }
        Form::Json | Form::Stream => form.answer(caller, json(&page)),
    })
}

/// A page; an empty one only once nothing came for as long as the caller waits.
async fn page(caller: &Caller, after: Option<&Cursor>, limit: u32, wait: Duration) -> Result<Page, Problem> {
    let until = Instant::now() + wait;
    let mut changes = caller.puller.changes();
    loop {
        changes.borrow_and_update();
        let page = caller.puller.events(after, limit).await.map_err(|error| caller.problem(error))?;
        if !page.events.is_empty() || Instant::now() >= until {
            return Ok(page);
        }
        caller.changed(&mut changes, until).await?;
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledged {
    cursor: String,
}

/// `POST /v1/subscriptions/{name}/ack`
pub(super) async fn acknowledge(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Json<Acknowledged>, JsonRejection>,
) -> Result<Response, Problem> {
    let caller = Caller::admit(&shared, path(name)?, &headers).await?;
    let Json(body) = body.map_err(|error| Problem::invalid(error.body_text()))?;
    let cursor = cursor(&body.cursor)?;
    caller.puller.acknowledge(&cursor).await.map_err(|error| caller.problem(error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn json(page: &Page) -> String {
    let mut out = String::from("{\"events\":[");
    for (at, event) in page.events.iter().enumerate() {
        out.push_str(if at == 0 { "\n" } else { ",\n" });
        push(&mut out, event);
    }
    // Writing to a text does not fail.
    let _ = writeln!(out, "],\"next\":\"{}\",\"more\":{}}}", page.next, page.more);
    out
}

fn lines(page: &Page) -> String {
    let mut out = String::new();
    for event in &page.events {
        push(&mut out, event);
        out.push('\n');
    }
    out
}

/// One event as a JSON object on one line. Key and record are JSON already; nothing else of it needs escaping.
pub(super) fn push(out: &mut String, event: &Event) {
    let op = if event.record.is_some() { "upsert" } else { "delete" };
    let time = StandardValue::Time(event.at_us);
    let _ = write!(out, "{{\"cursor\":\"{}\",\"time\":\"{time}\",\"op\":\"{op}\",\"key\":{}", event.cursor, event.key);
    if let Some(record) = &event.record {
        let _ = write!(out, ",\"record\":{record}");
    }
    out.push('}');
}
