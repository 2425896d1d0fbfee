//! The registry that lies in the embedded log's file, so that one backup has records and schemas alike.
//!
//! Behaves as Confluent's registry does (Schema Registry API Reference): one id for one schema whatever its subjects, versions
//! counted per subject and never given twice while the subject exists, deletes soft first and then for good. Only Avro, no
//! references. A schema's text stays when its last version is deleted for good, so that no id ever means another schema.

use std::sync::Arc;

use async_trait::async_trait;
use guitong_schemas::avro::compat::{self, CompatError};
use sha2::{Digest, Sha256};
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::{Compatibility, RegistryError, SchemaRegistry, code};
use crate::contract::LogError;
use crate::embedded::{EmbeddedLog, Tx, Work, WorkError};

/// Confluent's default for subjects that have no level of their own.
const DEFAULT: Compatibility = Compatibility::Backward;
/// The row of the level that holds for all subjects; no subject has an empty name.
const GLOBAL: &str = "";

/// The registry in the embedded log's file. Clones are the same registry.
#[derive(Debug, Clone)]
pub struct BuiltinRegistry {
    log: EmbeddedLog,
}

/// One version of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) version: u32,
    pub(crate) id: u32,
    pub(crate) deleted: bool,
}

/// How a version is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Latest,
    Number(u32),
}

impl Which {
    /// # Errors
    /// Confluent's 42202.
    pub(crate) fn parse(text: &str) -> Result<Self, RegistryError> {
        match text {
            "latest" | "-1" => Ok(Self::Latest),
            number => number.parse().ok().filter(|number| *number > 0).map(Self::Number).ok_or_else(|| {
                answer(code::INVALID_VERSION, format!("The specified version '{text}' is not a valid version id"))
            }),
        }
    }
}

pub(crate) fn answer(code: u32, detail: impl Into<String>) -> RegistryError {
    RegistryError::Answer { code, detail: detail.into() }
}

fn no_subject(subject: &str) -> RegistryError {
    answer(code::NO_SUBJECT, format!("Subject '{subject}' not found."))
}

fn no_version(version: u32) -> RegistryError {
    answer(code::NO_VERSION, format!("Version {version} not found."))
}

fn store(error: LogError) -> RegistryError {
    match error {
        LogError::Corrupt { .. } | LogError::Other(_) => answer(code::STORE, error.to_string()),
        transient => RegistryError::Unavailable { detail: transient.to_string() },
    }
}

impl BuiltinRegistry {
    /// The registry of `log`.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`] where the log's file cannot be read.
    pub async fn open(log: &EmbeddedLog) -> Result<Self, RegistryError> {
        let registry = Self { log: log.clone() };
        registry.global().await?;
        Ok(registry)
    }

    fn pool(&self) -> &SqlitePool {
        self.log.readers()
    }

    fn fault(&self, error: sqlx::Error) -> RegistryError {
        store(self.log.fault(error))
    }

    async fn write(&self, change: Change) -> Result<(), RegistryError> {
        self.log.perform(Box::new(change)).await.map_err(store)
    }

    /// Subjects in order of their names; with `deleted`, also those of which every version is deleted.
    pub(crate) async fn subjects(&self, deleted: bool) -> Result<Vec<String>, RegistryError> {
        sqlx::query_scalar("SELECT DISTINCT subject FROM schema_version WHERE deleted <= ? ORDER BY subject")
            .bind(deleted)
            .fetch_all(self.pool())
            .await
            .map_err(|error| self.fault(error))
    }

    /// Versions of a subject from the oldest on, deleted ones too; empty where there is no such subject.
    async fn all_versions(&self, subject: &str) -> Result<Vec<Version>, RegistryError> {
        let rows = sqlx::query("SELECT version, schema, deleted FROM schema_version WHERE subject = ? ORDER BY version")
            .bind(subject)
            .fetch_all(self.pool())
            .await
            .map_err(|error| self.fault(error))?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Version { version: row.try_get(0)?, id: row.try_get(1)?, deleted: row.try_get(2)? })
        };
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| self.fault(error))
    }

    /// # Errors
    /// Confluent's 40401.
    pub(crate) async fn versions(&self, subject: &str, deleted: bool) -> Result<Vec<Version>, RegistryError> {
        let mut versions = self.all_versions(subject).await?;
        versions.retain(|version| deleted || !version.deleted);
        if versions.is_empty() { Err(no_subject(subject)) } else { Ok(versions) }
    }

    /// # Errors
    /// Confluent's 40401, 40402.
    pub(crate) async fn version(&self, subject: &str, which: Which, deleted: bool) -> Result<Version, RegistryError> {
        let mut versions = self.versions(subject, deleted).await?;
        match which {
            Which::Latest => versions.pop().ok_or_else(|| no_subject(subject)),
            Which::Number(wanted) => {
                versions.into_iter().find(|version| version.version == wanted).ok_or_else(|| no_version(wanted))
            }
        }
    }

    async fn id_of(&self, text: &str) -> Result<Option<u32>, RegistryError> {
        sqlx::query_scalar("SELECT id FROM schema_text WHERE hash = ?")
            .bind(hash(text))
            .fetch_optional(self.pool())
            .await
            .map_err(|error| self.fault(error))
    }

    /// The version under which `subject` has the schema.
    ///
    /// # Errors
    /// Confluent's 40401, 40403, 42201.
    pub(crate) async fn lookup(&self, subject: &str, schema: &str, deleted: bool) -> Result<Version, RegistryError> {
        let text = normal(subject, schema)?;
        let versions = self.versions(subject, deleted).await?;
        let id = self.id_of(&text).await?;
        let found = versions.into_iter().rev().find(|version| Some(version.id) == id);
        found.ok_or_else(|| answer(code::NO_SCHEMA, "Schema not found"))
    }

    /// Subjects and versions that have the schema.
    pub(crate) async fn uses(&self, id: u32, deleted: bool) -> Result<Vec<(String, u32)>, RegistryError> {
        self.schema(id).await?;
        sqlx::query_as("SELECT subject, version FROM schema_version WHERE schema = ? AND deleted <= ? ORDER BY subject, version")
            .bind(id)
            .bind(deleted)
            .fetch_all(self.pool())
            .await
            .map_err(|error| self.fault(error))
    }

    /// The id under which `subject` has the schema already and keeps `level`, found by one look and without reading the schema: a node
    /// asks for a thousand when it starts. Only a text that was valid is stored, so one that is equal needs no check.
    async fn kept(&self, subject: &str, schema: &str, level: Compatibility) -> Result<Option<u32>, RegistryError> {
        sqlx::query_scalar(
            "SELECT schema_text.id FROM schema_text
             JOIN schema_version ON schema_version.schema = schema_text.id AND subject = ?1 AND deleted = 0
             JOIN schema_config USING (subject) WHERE hash = ?2 AND compatibility = ?3",
        )
        .bind(subject)
        .bind(hash(&unspaced(schema)))
        .bind(level.as_str())
        .fetch_optional(self.pool())
        .await
        .map_err(|error| self.fault(error))
    }

    async fn level(&self, subject: &str) -> Result<Option<Compatibility>, RegistryError> {
        let word: Option<String> = sqlx::query_scalar("SELECT compatibility FROM schema_config WHERE subject = ?")
            .bind(subject)
            .fetch_optional(self.pool())
            .await
            .map_err(|error| self.fault(error))?;
        Ok(word.as_deref().and_then(Compatibility::parse))
    }

    /// The level of subjects that have none of their own.
    pub(crate) async fn global(&self) -> Result<Compatibility, RegistryError> {
        Ok(self.level(GLOBAL).await?.unwrap_or(DEFAULT))
    }

    /// # Errors
    /// Confluent's 40408 where the subject has no level of its own.
    pub(crate) async fn own_level(&self, subject: &str) -> Result<Compatibility, RegistryError> {
        self.level(subject).await?.ok_or_else(|| {
            answer(code::NO_LEVEL, format!("Subject '{subject}' does not have subject-level compatibility configured"))
        })
    }

    pub(crate) async fn effective(&self, subject: &str) -> Result<Compatibility, RegistryError> {
        match self.level(subject).await? {
            Some(level) => Ok(level),
            None => self.global().await,
        }
    }

    /// Sets the level of a subject, or of all that have none; `None` removes it.
    pub(crate) async fn set_level(&self, subject: Option<&str>, level: Option<Compatibility>) -> Result<(), RegistryError> {
        self.write(Change::Level { subject: subject.unwrap_or(GLOBAL).to_owned(), level }).await
    }

    async fn texts(&self, versions: &[Version]) -> Result<Vec<Arc<str>>, RegistryError> {
        let mut texts = Vec::with_capacity(versions.len());
        for version in versions {
            texts.push(self.schema(version.id).await?);
        }
        Ok(texts)
    }

    /// Whether the schema could be the subject's next version: against one version, or as the subject's level says.
    ///
    /// # Errors
    /// [`RegistryError::Incompatible`] with the reason.
    pub(crate) async fn compatible(&self, subject: &str, schema: &str, against: Option<Which>) -> Result<(), RegistryError> {
        let text = normal(subject, schema)?;
        let level = self.effective(subject).await?;
        let versions = match against {
            Some(which) => vec![self.version(subject, which, false).await?],
            None => self.all_versions(subject).await?.into_iter().filter(|version| !version.deleted).collect(),
        };
        self.check(subject, level, &text, &versions).await
    }

    async fn check(&self, subject: &str, level: Compatibility, text: &str, versions: &[Version]) -> Result<(), RegistryError> {
        let texts = self.texts(versions).await?;
        let earlier: Vec<&str> = texts.iter().map(|text| &**text).collect();
        compat::check(level, text, &earlier).map_err(|error| match error {
            CompatError::Invalid(detail) => RegistryError::Invalid { subject: subject.to_owned(), detail },
            CompatError::Incompatible { direction, version, detail } => {
                let number = versions.get(version.saturating_sub(1)).map_or(0, |version| version.version);
                RegistryError::Incompatible {
                    subject: subject.to_owned(),
                    detail: format!("{direction} version {number}: {detail}"),
                }
            }
        })
    }

    /// Deletes a subject, softly or for good; its versions.
    ///
    /// # Errors
    /// Confluent's 40401, 40404, 40405.
    pub(crate) async fn delete_subject(&self, subject: &str, permanent: bool) -> Result<Vec<u32>, RegistryError> {
        let _alone = self.log.registering().await;
        let versions = self.all_versions(subject).await?;
        let live = versions.iter().any(|version| !version.deleted);
        match (versions.is_empty(), live, permanent) {
            (true, ..) => return Err(no_subject(subject)),
            (_, true, true) => {
                let detail = format!("Subject '{subject}' was not deleted first before being permanently deleted");
                return Err(answer(code::SUBJECT_NOT_SOFT_DELETED, detail));
            }
            (_, false, false) => {
                let detail = format!("Subject '{subject}' was soft deleted. Set permanent=true to delete permanently");
                return Err(answer(code::SUBJECT_SOFT_DELETED, detail));
            }
            _ => {}
        }
        let gone = versions.iter().filter(|version| permanent || !version.deleted).map(|version| version.version).collect();
        self.write(Change::Delete { subject: subject.to_owned(), version: None, permanent }).await?;
        Ok(gone)
    }

    /// Deletes one version, softly or for good; its number.
    ///
    /// # Errors
    /// Confluent's 40401, 40402, 40406, 40407.
    pub(crate) async fn delete_version(&self, subject: &str, which: Which, permanent: bool) -> Result<u32, RegistryError> {
        let _alone = self.log.registering().await;
        let found = match which {
            Which::Latest => self.version(subject, which, false).await?,
            Which::Number(_) => self.version(subject, which, true).await?,
        };
        let about = format!("Subject '{subject}' Version {}", found.version);
        if permanent && !found.deleted {
            let detail = format!("{about} was not deleted first before being permanently deleted");
            return Err(answer(code::VERSION_NOT_SOFT_DELETED, detail));
        }
        if !permanent && found.deleted {
            let detail = format!("{about} was soft deleted. Set permanent=true to delete permanently");
            return Err(answer(code::VERSION_SOFT_DELETED, detail));
        }
        self.write(Change::Delete { subject: subject.to_owned(), version: Some(found.version), permanent }).await?;
        Ok(found.version)
    }
}

#[async_trait]
impl SchemaRegistry for BuiltinRegistry {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        if subject.is_empty() {
            return Err(answer(code::INVALID_SUBJECT, "a subject needs a name"));
        }
        let text = normal(subject, schema)?;
        let _alone = self.log.registering().await;
        let versions = self.all_versions(subject).await?;
        let live: Vec<_> = versions.iter().filter(|version| !version.deleted).cloned().collect();
        if let Some(id) = self.id_of(&text).await?
            && live.iter().any(|version| version.id == id)
        {
            return Ok(id);
        }
        self.check(subject, self.effective(subject).await?, &text, &live).await?;
        let version = versions.last().map_or(1, |last| last.version + 1);
        self.write(Change::Register { subject: subject.to_owned(), version, text: text.clone() }).await?;
        self.id_of(&text).await?.ok_or_else(|| answer(code::STORE, "the schema was not stored"))
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, RegistryError> {
        let text: Option<String> = sqlx::query_scalar(
            "SELECT text FROM schema_text WHERE id = ? AND EXISTS (SELECT 1 FROM schema_version WHERE schema = schema_text.id)",
        )
        .bind(id)
        .fetch_optional(self.pool())
        .await
        .map_err(|error| self.fault(error))?;
        text.map(Into::into).ok_or(RegistryError::NoSchema { id })
    }

    async fn set_compatibility(&self, subject: &str, level: Compatibility) -> Result<(), RegistryError> {
        self.set_level(Some(subject), Some(level)).await
    }

    async fn register_with(&self, subject: &str, schema: &str, level: Compatibility) -> Result<u32, RegistryError> {
        if let Some(id) = self.kept(subject, schema, level).await? {
            return Ok(id);
        }
        self.set_compatibility(subject, level).await?;
        self.register(subject, schema).await
    }
}

fn hash(text: &str) -> Vec<u8> {
    Sha256::digest(text.as_bytes()).to_vec()
}

/// The schema without what means nothing: white space. It must be Avro.
fn normal(subject: &str, schema: &str) -> Result<String, RegistryError> {
    let invalid = |detail: String| RegistryError::Invalid { subject: subject.to_owned(), detail };
    compat::validate(schema).map_err(|error| invalid(error.to_string()))?;
    let json: serde_json::Value = serde_json::from_str(schema).map_err(|error| invalid(error.to_string()))?;
    Ok(json.to_string())
}

/// JSON without white space between its parts: what [`normal`] gives, but for unusual forms of numbers and escapes.
fn unspaced(json: &str) -> String {
    let (mut in_text, mut escaped) = (false, false);
    let keeps = |letter: &char| {
        in_text ^= *letter == '"' && !escaped;
        escaped = in_text && *letter == '\\' && !escaped;
        in_text || !letter.is_ascii_whitespace()
    };
    json.chars().filter(keeps).collect()
}

enum Change {
    Register { subject: String, version: u32, text: String },
    Level { subject: String, level: Option<Compatibility> },
    Delete { subject: String, version: Option<u32>, permanent: bool },
}

#[async_trait]
impl Work for Change {
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), WorkError> {
        match self {
            Self::Register { subject, version, text } => register(tx.conn, subject, *version, text).await?,
            Self::Level { subject, level: Some(level) } => {
                sqlx::query(
                    "INSERT INTO schema_config VALUES (?, ?) ON CONFLICT DO UPDATE SET compatibility = excluded.compatibility",
                )
                .bind(&*subject)
                .bind(level.as_str())
                .execute(&mut *tx.conn)
                .await?;
            }
            Self::Level { subject, level: None } => {
                sqlx::query("DELETE FROM schema_config WHERE subject = ?").bind(&*subject).execute(&mut *tx.conn).await?;
            }
            Self::Delete { subject, version, permanent } => {
                let sql = if *permanent {
                    "DELETE FROM schema_version WHERE subject = ?1 AND version = coalesce(?2, version)"
                } else {
                    "UPDATE schema_version SET deleted = 1 WHERE subject = ?1 AND version = coalesce(?2, version)"
                };
                sqlx::query(sql).bind(&*subject).bind(*version).execute(&mut *tx.conn).await?;
                if version.is_none() {
                    sqlx::query("DELETE FROM schema_config WHERE subject = ?").bind(&*subject).execute(&mut *tx.conn).await?;
                }
            }
        }
        Ok(())
    }
}

async fn register(conn: &mut SqliteConnection, subject: &str, version: u32, text: &str) -> Result<(), sqlx::Error> {
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO schema_text (hash, text) VALUES (?, ?) ON CONFLICT DO UPDATE SET text = text RETURNING id",
    )
    .bind(hash(text))
    .bind(text)
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query("INSERT INTO schema_version (subject, version, schema) VALUES (?, ?, ?)")
        .bind(subject)
        .bind(version)
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_white_space_is_the_normal_form() {
        let schema = r#" { "type" : "record", "name": "a",
            "doc": "甲 \" {\\", "fields": [ {"name": "b", "type": "long"} ] } "#;
        assert_eq!(unspaced(schema), normal("a", schema).unwrap());
    }
}
