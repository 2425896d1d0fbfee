//! Confluent's REST API over the built-in registry, for every client that speaks it.
//!
//! Bodies are read as JSON whatever their content type says, as Confluent's registry does; answers are
//! `application/vnd.schemaregistry.v1+json`. The router has no authentication of its own: it is served on a loopback or an
//! authenticated address.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::builtin::{Version, Which, answer};
use super::{BuiltinRegistry, Compatibility, RegistryError, SchemaRegistry, code};

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// Bytes of a request: a schema of a table with thousands of columns is far below.
const BODY: usize = 8 << 20;

type Answer = Result<Reply, Refusal>;

/// The routes of the registry, to be served at a root or nested below a path.
pub fn router(registry: BuiltinRegistry) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(lookup).delete(delete_subject))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version).delete(delete_version))
        .route("/subjects/{subject}/versions/{version}/schema", get(version_schema))
        .route("/subjects/{subject}/versions/{version}/referencedby", get(referenced_by))
        .route("/schemas/types", get(types))
        .route("/schemas/ids/{id}", get(schema))
        .route("/schemas/ids/{id}/schema", get(bare_schema))
        .route("/schemas/ids/{id}/subjects", get(schema_subjects))
        .route("/schemas/ids/{id}/versions", get(schema_versions))
        .route("/compatibility/subjects/{subject}/versions", post(compatible_with_all))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(compatible_with_one))
        .route("/config", get(global).put(set_global).delete(reset_global))
        .route("/config/{subject}", get(level).put(set_level).delete(reset_level))
        .route("/mode", get(mode))
        .route("/mode/{subject}", get(mode))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(registry)
}

/// A JSON answer.
struct Reply(Value);

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, MEDIA_TYPE)], self.0.to_string()).into_response()
    }
}

struct Refusal(RegistryError);

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (code, message) = match self.0 {
            RegistryError::Incompatible { detail, subject } => (
                code::INCOMPATIBLE,
                format!("Schema being registered is incompatible with an earlier schema for subject \"{subject}\": {detail}"),
            ),
            RegistryError::Invalid { detail, .. } => (code::INVALID_SCHEMA, format!("Invalid schema: {detail}")),
            RegistryError::NoSchema { id } => (code::NO_SCHEMA, format!("Schema {id} not found")),
            RegistryError::Unavailable { detail } => (code::STORE, detail),
            RegistryError::Answer { code, detail } => (code, detail),
        };
        let status = if code < 1000 { code } else { code / 100 };
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let body = json!({ "error_code": code, "message": message });
        (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Reply(body)).into_response()
    }
}

/// What a request may say after its path.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Options {
    deleted: bool,
    permanent: bool,
    verbose: bool,
    default_to_global: bool,
    subject_prefix: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaBody {
    schema: String,
    #[serde(default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Value>,
}

#[derive(Deserialize)]
struct LevelBody {
    compatibility: String,
}

fn schema_of(body: &Bytes) -> Result<String, RegistryError> {
    let body: SchemaBody = serde_json::from_slice(body)
        .map_err(|error| answer(code::INVALID_SCHEMA, format!("the request is not understood: {error}")))?;
    if body.schema_type.as_deref().is_some_and(|kind| !kind.eq_ignore_ascii_case("AVRO")) {
        return Err(answer(code::INVALID_SCHEMA, "Invalid schema type: this registry holds AVRO"));
    }
    if !body.references.is_empty() {
        return Err(answer(code::INVALID_SCHEMA, "Invalid schema: this registry does not resolve references"));
    }
    Ok(body.schema)
}

fn level_of(body: &Bytes) -> Result<Compatibility, RegistryError> {
    let body: Option<LevelBody> = serde_json::from_slice(body).ok();
    body.and_then(|body| Compatibility::parse(&body.compatibility.to_ascii_uppercase())).ok_or_else(|| {
        answer(
            code::INVALID_LEVEL,
            "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive",
        )
    })
}

fn number(text: &str) -> Result<u32, RegistryError> {
    text.parse().map_err(|_| answer(404, "HTTP 404 Not Found"))
}

type Registry = State<BuiltinRegistry>;
type One = Path<String>;
type Two = Path<(String, String)>;

async fn root() -> Reply {
    Reply(json!({}))
}

async fn types() -> Reply {
    Reply(json!(["AVRO"]))
}

async fn mode() -> Reply {
    Reply(json!({ "mode": "READWRITE" }))
}

async fn subjects(State(registry): Registry, Query(options): Query<Options>) -> Answer {
    let mut subjects = registry.subjects(options.deleted).await?;
    subjects.retain(|subject| subject.starts_with(&options.subject_prefix));
    Ok(Reply(json!(subjects)))
}

async fn versions(State(registry): Registry, Path(subject): One, Query(options): Query<Options>) -> Answer {
    let versions = registry.versions(&subject, options.deleted).await?;
    Ok(Reply(json!(versions.iter().map(|version| version.version).collect::<Vec<_>>())))
}

async fn register(State(registry): Registry, Path(subject): One, body: Bytes) -> Answer {
    let id = registry.register(&subject, &schema_of(&body)?).await?;
    Ok(Reply(json!({ "id": id })))
}

async fn describe(registry: &BuiltinRegistry, subject: &str, version: &Version) -> Answer {
    let schema = registry.schema(version.id).await?;
    Ok(Reply(json!({ "subject": subject, "version": version.version, "id": version.id, "schema": &*schema })))
}

async fn lookup(State(registry): Registry, Path(subject): One, Query(options): Query<Options>, body: Bytes) -> Answer {
    let version = registry.lookup(&subject, &schema_of(&body)?, options.deleted).await?;
    describe(&registry, &subject, &version).await
}

async fn version(State(registry): Registry, Path((subject, which)): Two, Query(options): Query<Options>) -> Answer {
    let version = registry.version(&subject, Which::parse(&which)?, options.deleted).await?;
    describe(&registry, &subject, &version).await
}

/// A schema itself, as JSON.
async fn bare(registry: &BuiltinRegistry, id: u32) -> Result<Response, Refusal> {
    let text = registry.schema(id).await?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text.to_string()).into_response())
}

async fn version_schema(
    State(registry): Registry,
    Path((subject, which)): Two,
    Query(options): Query<Options>,
) -> Result<Response, Refusal> {
    let version = registry.version(&subject, Which::parse(&which)?, options.deleted).await?;
    bare(&registry, version.id).await
}

async fn referenced_by(State(registry): Registry, Path((subject, which)): Two) -> Answer {
    registry.version(&subject, Which::parse(&which)?, false).await?;
    Ok(Reply(json!([])))
}

async fn delete_subject(State(registry): Registry, Path(subject): One, Query(options): Query<Options>) -> Answer {
    Ok(Reply(json!(registry.delete_subject(&subject, options.permanent).await?)))
}

async fn delete_version(State(registry): Registry, Path((subject, which)): Two, Query(options): Query<Options>) -> Answer {
    Ok(Reply(json!(registry.delete_version(&subject, Which::parse(&which)?, options.permanent).await?)))
}

async fn schema(State(registry): Registry, Path(id): One) -> Answer {
    let schema = registry.schema(number(&id)?).await?;
    Ok(Reply(json!({ "schema": &*schema })))
}

async fn bare_schema(State(registry): Registry, Path(id): One) -> Result<Response, Refusal> {
    bare(&registry, number(&id)?).await
}

async fn schema_subjects(State(registry): Registry, Path(id): One, Query(options): Query<Options>) -> Answer {
    let mut subjects: Vec<_> =
        registry.uses(number(&id)?, options.deleted).await?.into_iter().map(|(subject, _)| subject).collect();
    subjects.dedup();
    Ok(Reply(json!(subjects)))
}

async fn schema_versions(State(registry): Registry, Path(id): One, Query(options): Query<Options>) -> Answer {
    let uses = registry.uses(number(&id)?, options.deleted).await?;
    let uses: Vec<_> = uses.iter().map(|(subject, version)| json!({ "subject": subject, "version": version })).collect();
    Ok(Reply(json!(uses)))
}

async fn compatible(
    registry: &BuiltinRegistry,
    subject: &str,
    against: Option<Which>,
    options: &Options,
    body: &Bytes,
) -> Answer {
    match registry.compatible(subject, &schema_of(body)?, against).await {
        Ok(()) => Ok(Reply(json!({ "is_compatible": true }))),
        Err(RegistryError::Incompatible { detail, .. }) if options.verbose => {
            Ok(Reply(json!({ "is_compatible": false, "messages": [detail] })))
        }
        Err(RegistryError::Incompatible { .. }) => Ok(Reply(json!({ "is_compatible": false }))),
        Err(error) => Err(error.into()),
    }
}

async fn compatible_with_all(
    State(registry): Registry,
    Path(subject): One,
    Query(options): Query<Options>,
    body: Bytes,
) -> Answer {
    compatible(&registry, &subject, None, &options, &body).await
}

async fn compatible_with_one(
    State(registry): Registry,
    Path((subject, which)): Two,
    Query(options): Query<Options>,
    body: Bytes,
) -> Answer {
    compatible(&registry, &subject, Some(Which::parse(&which)?), &options, &body).await
}

fn level_reply(level: Compatibility) -> Reply {
    Reply(json!({ "compatibilityLevel": level.as_str() }))
}

async fn global(State(registry): Registry) -> Answer {
    Ok(level_reply(registry.global().await?))
}

async fn set_global(State(registry): Registry, body: Bytes) -> Answer {
    let level = level_of(&body)?;
    registry.set_level(None, Some(level)).await?;
    Ok(Reply(json!({ "compatibility": level.as_str() })))
}

async fn reset_global(State(registry): Registry) -> Answer {
    registry.set_level(None, None).await?;
    Ok(level_reply(registry.global().await?))
}

async fn level(State(registry): Registry, Path(subject): One, Query(options): Query<Options>) -> Answer {
    let level =
        if options.default_to_global { registry.effective(&subject).await? } else { registry.own_level(&subject).await? };
    Ok(level_reply(level))
}

async fn set_level(State(registry): Registry, Path(subject): One, body: Bytes) -> Answer {
    let level = level_of(&body)?;
    registry.set_level(Some(&subject), Some(level)).await?;
    Ok(Reply(json!({ "compatibility": level.as_str() })))
}

async fn reset_level(State(registry): Registry, Path(subject): One) -> Answer {
    let old = registry.own_level(&subject).await?;
    registry.set_level(Some(&subject), None).await?;
    Ok(level_reply(old))
}

#[cfg(test)]
mod tests;
