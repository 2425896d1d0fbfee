//! What answers and questions of all routes have in common: media types, bounds, whole bodies.

use std::str::FromStr as _;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use guitong_deliver::pull::Cursor;

use super::admit::Caller;
use super::problem::Problem;

/// Records of a page unless `limit` says otherwise, and at most.
const USUAL: u32 = 1_000;
const MOST: u32 = 10_000;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Lines,
    /// An object container file.
    Avro,
    /// Server-sent events (HTML, "Server-sent events").
    Stream,
}

impl Form {
    fn media(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lines => "application/x-ndjson",
            Self::Avro => "application/avro",
            Self::Stream => "text/event-stream",
        }
    }

    /// The first of `known` that is accepted; the first known one where nothing is said.
    pub(super) fn accepted(headers: &HeaderMap, known: &[Self]) -> Result<Self, Problem> {
        let usual = known.first().copied().unwrap_or(Self::Json);
        let Some(accept) = headers.get(header::ACCEPT) else { return Ok(usual) };
        let wanted = accept.to_str().unwrap_or_default().split(',').filter_map(|part| part.split(';').next()).map(str::trim);
        let of = |media: &str| match media {
            "*/*" | "application/*" => Some(usual),
            media => known.iter().find(|form| media.eq_ignore_ascii_case(form.media())).copied(),
        };
        let all = || known.iter().map(|form| form.media()).collect::<Vec<_>>().join(", ");
        wanted.into_iter().find_map(of).ok_or_else(|| Problem::not_acceptable(&all()))
    }

    /// A whole body in this form; the caller's place is taken until it was sent.
    pub(super) fn answer(self, caller: Caller, body: impl Into<Bytes>) -> Response {
        let body = body.into();
        let length = HeaderValue::from(body.len());
        let body = stream::iter([body]).map(move |bytes| {
            let _sending = &caller;
            Ok::<_, std::convert::Infallible>(bytes)
        });
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(self.media())), (header::CONTENT_LENGTH, length)];
        (headers, Body::from_stream(body)).into_response()
    }
}

/// Says in a header what a body of lines has no place for. Cursors are digits and dashes.
pub(super) fn note(response: &mut Response, name: HeaderName, value: &str) {
    response.headers_mut().extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
}

/// What stands in the path.
pub(super) fn path<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Problem> {
    path.map(|Path(path)| path).map_err(|error| Problem::invalid(error.body_text()))
}

pub(super) fn cursor(text: &str) -> Result<Cursor, Problem> {
    Cursor::from_str(text).map_err(Problem::invalid)
}

/// `limit` of a question.
pub(super) fn limit(given: Option<u64>) -> Result<u32, Problem> {
    let limit = within("limit", given.unwrap_or(u64::from(USUAL)), 1, u64::from(MOST))?;
    Ok(u32::try_from(limit).unwrap_or(MOST))
}

pub(super) fn within(name: &str, value: u64, least: u64, most: u64) -> Result<u64, Problem> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(Problem::invalid(format!("`{name}` is {value} and has to be from {least} to {most}."))),
    }
}
