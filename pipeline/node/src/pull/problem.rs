//! Answers that say what is wrong and what to do: problem details, RFC 9457.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use guitong_deliver::pull::PullError;
use guitong_deliver::sink::SinkError;
use serde_json::{Value, json};

/// A problem. `kind` is stable; programs go by it.
#[derive(Debug)]
pub(super) struct Problem {
    kind: &'static str,
    status: StatusCode,
    title: &'static str,
    detail: String,
    /// Seconds after which the same may be asked again.
    retry_after: Option<u64>,
    /// Where to go on instead.
    go_to: Option<String>,
}

impl Problem {
    fn new(kind: &'static str, status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, status, title, detail: detail.into(), retry_after: None, go_to: None }
    }

    fn retry(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// One answer for everybody without a valid token, whatever is wrong and whether the subscription exists.
    pub(super) fn unauthorized() -> Self {
        let detail = "There is no subscription of this name for this token. Send `Authorization: Bearer <token>` with the token that \
                      the exchange's operator issued (guitong subscription token NAME); tokens expire, and a new one voids the one \
                      before.";
        Self::new("unauthorized", StatusCode::UNAUTHORIZED, "No such subscription for this token", detail)
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new("invalid-request", StatusCode::BAD_REQUEST, "The request cannot be understood", detail)
    }

    pub(super) fn not_acceptable(known: &str) -> Self {
        let detail = format!("This answers as one of {known}. Name one of them in `Accept`, or leave `Accept` out.");
        Self::new("not-acceptable", StatusCode::NOT_ACCEPTABLE, "None of the accepted media types is served", detail)
    }

    pub(super) fn too_often(seconds: u64) -> Self {
        let detail = "The subscription asks more often than it may. Ask for larger pages, or wait for changes with `wait`.";
        Self::new("too-many-requests", StatusCode::TOO_MANY_REQUESTS, "Too many requests", detail).retry(seconds)
    }

    pub(super) fn too_many(most: usize) -> Self {
        let detail =
            format!("{most} answers for this subscription are under way, which is the limit. Read or close some of them.");
        Self::new("too-many-answers", StatusCode::TOO_MANY_REQUESTS, "Too many answers under way", detail).retry(1)
    }

    pub(super) fn no_record() -> Self {
        let detail = "The subscription holds no record of this key: there is none, or it is not granted. A key that is masked is the \
                      32 digits of `guitong_key`.";
        Self::new("no-record", StatusCode::NOT_FOUND, "No such record", detail)
    }

    /// The subscription changed or the node stops.
    pub(super) fn ended() -> Self {
        let detail = "The subscription was changed, or the node is stopping. Ask again from the last cursor.";
        Self::new("interrupted", StatusCode::SERVICE_UNAVAILABLE, "Interrupted", detail).retry(1)
    }

    /// A fault of an outbox, said of the subscription `name`.
    pub(super) fn of(error: PullError, name: &str) -> Self {
        match error {
            PullError::Gap(why) => {
                let detail = format!(
                    "There is a gap: {why}. Take the whole state from `go_to`, replace what you hold by it, and go on from its `cursor`."
                );
                Self {
                    go_to: Some(format!("/v1/subscriptions/{name}/snapshot")),
                    ..Self::new("gap", StatusCode::GONE, "Gap", detail)
                }
            }
            PullError::Filling => {
                let detail =
                    "The subscription is new, or its grant has changed, and what it grants is not complete yet. Ask again.";
                Self::new("filling", StatusCode::SERVICE_UNAVAILABLE, "Not complete yet", detail).retry(1)
            }
            PullError::Stopped(why) => {
                let detail = format!("Nothing may be delivered now: {why}. Ask the exchange's operator about the approval.");
                Self::new("not-granted", StatusCode::FORBIDDEN, "Nothing may be delivered now", detail)
            }
            PullError::Held(why) => {
                let detail = format!("Delivery is paused {why}. The exchange's operator lets it go on.");
                Self::new("paused", StatusCode::SERVICE_UNAVAILABLE, "Paused", detail).retry(60)
            }
            error => Self::unavailable(&error.to_string()),
        }
    }

    fn unavailable(why: &str) -> Self {
        tracing::error!(error = why, "what is pulled cannot be read");
        let detail = "The exchange cannot read its outbox. Its log says why; ask again later.";
        Self::new("unavailable", StatusCode::SERVICE_UNAVAILABLE, "Unavailable", detail).retry(5)
    }

    pub(super) fn json(&self) -> Value {
        let mut json = json!({
            "type": format!("urn:guitong:problem:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let (Some(go_to), Some(json)) = (&self.go_to, json.as_object_mut()) {
            json.insert("go_to".to_owned(), go_to.clone().into());
        }
        json
    }
}

impl From<SinkError> for Problem {
    fn from(error: SinkError) -> Self {
        Self::unavailable(&error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.json().to_string();
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
