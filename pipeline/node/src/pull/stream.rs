//! Server-sent events: pages of changes one after the other, each when it comes. The next page is read once the one before was taken,
//! so a reader that is slow holds one page and loses nothing: it comes back with `Last-Event-ID`.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use guitong_deliver::pull::{Cursor, Page};
use tokio::sync::watch;
use tokio::time::Instant;

use super::admit::Caller;
use super::events::push;
use super::problem::Problem;

/// Between two signs of life, by which a dead connection is noticed on both sides.
const ALIVE: Duration = Duration::from_secs(15);
/// Milliseconds after which a browser comes back.
const RETRY_MS: u32 = 2_000;

struct Open {
    caller: Caller,
    changes: watch::Receiver<()>,
    limit: u32,
    /// Read and not sent yet.
    page: Page,
    /// It begins with how soon to come back.
    greeted: bool,
}

/// Everything behind `after`, until the subscription ends or changes or the reader goes away.
pub(super) async fn open(caller: Caller, after: Option<Cursor>, limit: u32) -> Result<Response, Problem> {
    let mut changes = caller.puller.changes();
    changes.borrow_and_update();
    // What is wrong from the start is a plain answer.
    let page = caller.puller.events(after.as_ref(), limit).await.map_err(|error| caller.problem(error))?;
    let open = Open { caller, changes, limit, page, greeted: false };
    let body = stream::unfold(Some(open), |open| async move {
        let mut open = open?;
        match open.next().await {
            Ok(text) => Some((Ok::<_, Infallible>(Bytes::from(text)), Some(open))),
            Err(problem) => Some((Ok(Bytes::from(format!("event: problem\ndata: {}\n\n", problem.json()))), None)),
        }
    });
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response())
}

impl Open {
    /// What is sent next.
    async fn next(&mut self) -> Result<String, Problem> {
        let alive = Instant::now() + ALIVE;
        loop {
            self.caller.check()?;
            if !self.greeted {
                self.greeted = true;
                return Ok(format!("retry: {RETRY_MS}\n\n"));
            }
            if !self.page.events.is_empty() {
                self.caller.count(self.page.events.len());
                let text = text(&self.page);
                self.page.events.clear();
                return Ok(text);
            }
            if !self.page.more {
                self.caller.changed(&mut self.changes, alive).await?;
                if Instant::now() >= alive {
                    return Ok(": alive\n\n".to_owned());
                }
            }
            self.changes.borrow_and_update();
            let page = self.caller.puller.events(Some(&self.page.next), self.limit).await;
            self.page = page.map_err(|error| self.caller.problem(error))?;
        }
    }
}

fn text(page: &Page) -> String {
    let mut out = String::new();
    for event in &page.events {
        let op = if event.record.is_some() { "upsert" } else { "delete" };
        // Writing to a text does not fail. JSON of SQLite's has no line ends in it.
        let _ = write!(out, "id: {}\nevent: {op}\ndata: ", event.cursor);
        push(&mut out, event);
        out.push_str("\n\n");
    }
    out
}
