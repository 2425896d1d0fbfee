//! The twelve layouts of `tests/layouts`: an exchange directory whose departments' tables are built from its SQL and its example rows.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use guitong_schemas::standard::Standard;
use serde_json::{Map, Value};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};
use tempfile::TempDir;

use crate::servers::ServerError;

/// Where the layouts lie.
#[must_use]
pub fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("layouts")
}

/// A copy of the directory with its SQLite databases.
#[derive(Debug)]
pub struct Layouts {
    root: TempDir,
}

/// One resource of the layouts.
#[derive(Debug)]
pub struct Layout {
    pub resource: String,
    pub system: String,
    pub entity: String,
    /// Of the catalogue.
    pub code: String,
    /// Without schema.
    pub table: String,
    /// Example rows, column to value.
    pub rows: Vec<Map<String, Value>>,
    /// Those of tables beside its own, each with the table's name.
    pub beside: Vec<(String, Map<String, Value>)>,
}

impl Layouts {
    /// Copies the directory and builds every system's database, with these rows.
    ///
    /// # Errors
    /// When a file or a statement is not as it should be.
    pub async fn build(all: &[Layout]) -> Result<Self, ServerError> {
        let root = tempfile::tempdir().map_err(failed)?;
        copy(&source(), root.path())?;
        let layouts = Self { root };
        for system in systems()? {
            let path = layouts.path().join(format!("databases/{system}.db"));
            let mut database =
                SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.map_err(failed)?;
            sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut database).await.map_err(failed)?;
            // SQLite has no comments on tables and columns.
            let script =
                statements(&system, all)?.lines().filter(|line| !line.starts_with("COMMENT ON")).fold(String::new(), append);
            sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut database).await.map_err(failed)?;
        }
        Ok(layouts)
    }

    /// Declares one more department, which is granted every field of every resource without a mask, each in a SQLite table `records`
    /// of its own ([`Layouts::sink`]).
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn share(&self) -> Result<(), ServerError> {
        let write = |file: String, text: String| {
            let path = self.path().join(file);
            fs::create_dir_all(path.parent().unwrap_or(self.path())).and_then(|()| fs::write(&path, text)).map_err(failed)
        };
        fs::create_dir_all(self.path().join("sinks")).map_err(failed)?;
        write("departments/reader.toml".to_owned(), "title = \"订阅方\"\ncode = \"11450000PDY00001X0\"\n".to_owned())?;
        for layout in all()? {
            let name = &layout.resource;
            let entity = Standard::builtin().entity(&layout.entity).ok_or_else(|| failed(format!("no {}", layout.entity)))?;
            let fields: Vec<String> = entity.fields.iter().map(|field| format!("\"{}\"", field.name)).collect();
            let masks: Vec<String> = entity.fields.iter().map(|field| format!("{} = \"none\"", field.name)).collect();
            let text = format!(
                "subscriber = \"reader\"\nresource = \"{}\"\npurpose = \"测试\"\napproval = {{ number = \"测试〔2026〕1号\", until = 2099-12-31 }}\nfields = [{}]\nmasks = {{ {} }}\n\n[sink]\nkind = \"sqlite\"\npath = \"sinks/{name}.db\"\ntable = \"records\"\n",
                layout.code,
                fields.join(", "),
                masks.join(", ")
            );
            write(format!("subscriptions/{name}.toml"), text)?;
        }
        Ok(())
    }

    /// The database that a resource is delivered to.
    #[must_use]
    pub fn sink(&self, resource: &str) -> PathBuf {
        self.path().join(format!("sinks/{resource}.db"))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.root.path()
    }
}

/// Names of the systems, in order.
///
/// # Errors
/// When the directory cannot be read.
pub fn systems() -> Result<Vec<String>, ServerError> {
    names("systems", ".toml")
}

/// Every resource with its example rows, in order of the names.
///
/// # Errors
/// When a file is not as it should be.
pub fn all() -> Result<Vec<Layout>, ServerError> {
    names("resources", ".toml")?.into_iter().map(layout).collect()
}

/// Tables and rows of a system's database, in SQL that PostgreSQL and, without its comments, SQLite read.
///
/// # Errors
/// When a file is not as it should be.
pub fn statements(system: &str, all: &[Layout]) -> Result<String, ServerError> {
    let mut script = fs::read_to_string(source().join(format!("databases/{system}.sql"))).map_err(failed)?;
    // Two resources may read one table, and have its rows both.
    let mut inserted: Vec<(String, Map<String, Value>)> = Vec::new();
    for layout in all.iter().filter(|layout| layout.system == system) {
        let own = layout.rows.iter().map(|row| (layout.table.clone(), row.clone()));
        for (table, row) in layout.beside.iter().cloned().chain(own) {
            if inserted.contains(&(table.clone(), row.clone())) {
                continue;
            }
            inserted.push((table.clone(), row.clone()));
            let columns: Vec<String> = row.keys().map(|column| quoted(column, '"')).collect();
            let values: Vec<String> = row.values().map(literal).collect();
            let _ =
                writeln!(script, "INSERT INTO {} ({}) VALUES ({});", quoted(&table, '"'), columns.join(", "), values.join(", "));
        }
    }
    Ok(script)
}

fn layout(resource: String) -> Result<Layout, ServerError> {
    let text = fs::read_to_string(source().join(format!("resources/{resource}.toml"))).map_err(failed)?;
    let file: toml::Table = text.parse().map_err(failed)?;
    let word =
        |key: &str| file.get(key).and_then(toml::Value::as_str).map(str::to_owned).ok_or_else(|| failed(format!("no `{key}`")));
    let examples = fs::read_to_string(source().join(format!("resources/{resource}.examples.jsonl"))).map_err(failed)?;
    let (mut rows, mut beside) = (Vec::new(), Vec::new());
    for line in examples.lines() {
        let mut example: Map<String, Value> = serde_json::from_str(line).map_err(failed)?;
        match (example.remove("row"), example.remove("table")) {
            (Some(Value::Object(row)), None) => rows.push(row),
            (Some(Value::Object(row)), Some(Value::String(table))) => beside.push((table, row)),
            (other, _) => return Err(failed(format!("{resource}: no row but {other:?}"))),
        }
    }
    Ok(Layout {
        system: word("system")?,
        entity: word("entity")?,
        code: word("code")?,
        table: word("table")?,
        rows,
        beside,
        resource,
    })
}

fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text, '\''),
        other => other.to_string(),
    }
}

fn quoted(text: &str, quote: char) -> String {
    format!("{quote}{}{quote}", text.replace(quote, &String::from_iter([quote, quote])))
}

fn append(mut script: String, line: &str) -> String {
    script.push_str(line);
    script.push('\n');
    script
}

fn names(folder: &str, ending: &str) -> Result<Vec<String>, ServerError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(source().join(folder)).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(ending).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> Result<(), ServerError> {
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(failed)?;
        }
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> ServerError {
    ServerError::new("layouts", error)
}
