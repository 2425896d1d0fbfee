//! The counters: clerks of five departments who type new records, corrections, withdrawals and mistakes.

use std::time::Instant;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnection;

use super::DemoError;
use super::generate::{CASE, DEAL, ENTERPRISE, LICENCE, PENALTY, PROJECT, Table, person};
use super::{codes, databases};

/// What the clerks did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Typed {
    pub new: u32,
    pub corrected: u32,
    pub withdrawn: u32,
    pub wrong: u32,
}

impl Typed {
    #[must_use]
    pub fn total(&self) -> u32 {
        self.new + self.corrected + self.withdrawn + self.wrong
    }
}

/// The departments' databases as their own applications open them, and the next number of each table.
pub(super) struct Counters {
    connections: Vec<(&'static str, SqliteConnection)>,
    next: Vec<(&'static str, u32)>,
    pub(super) typed: Typed,
}

/// A company that was entered, and when its transaction was durable.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) code: String,
    pub(super) at: Instant,
}

impl Counters {
    pub(super) async fn open(root: &std::path::Path) -> Result<Self, DemoError> {
        let mut connections = Vec::new();
        let mut next = Vec::new();
        for system in ["registration", "projects", "trading", "credit", "hall"] {
            connections.push((system, databases::open(root, system).await?));
        }
        for table in [ENTERPRISE, PROJECT, DEAL, LICENCE, PENALTY, CASE] {
            // Numbers are never used again, so a second run begins after the highest that was ever given.
            next.push((table.name, table.rows + databases::given(root, table).await? + 1));
        }
        Ok(Self { connections, next, typed: Typed::default() })
    }

    /// One change, chosen by its number; for a new company what is needed to see it arrive.
    pub(super) async fn act(&mut self, step: u32) -> Result<Option<Entered>, DemoError> {
        if step % 50 == 3 {
            self.mistake(step).await?;
            return Ok(None);
        }
        match step % 20 {
            0..=5 => return self.new_company().await.map(Some),
            6..=11 => self.correct_company(step).await?,
            12..=13 => self.insert(CASE, |_| ()).await?,
            14..=15 => self.finish_case(step).await?,
            16 => self.insert(PROJECT, |_| ()).await?,
            17 => self.advance_project(step).await?,
            18 => self.insert(DEAL, |_| ()).await?,
            _ => self.withdraw(step).await?,
        }
        Ok(None)
    }

    async fn run(&mut self, system: &str, sql: &str, values: &[Value]) -> Result<(), DemoError> {
        let unknown = || DemoError::Directory(format!("{system} is no system of the quick start"));
        let (_, connection) = self.connections.iter_mut().find(|(name, _)| *name == system).ok_or_else(unknown)?;
        databases::execute(connection, sql, values).await
    }

    async fn insert(&mut self, table: Table, change: impl FnOnce(&mut Vec<Value>)) -> Result<(), DemoError> {
        let number = self.take(table);
        let mut row = (table.row)(number);
        change(&mut row);
        self.run(table.system, &table.insert(), &[json!([row])]).await?;
        self.typed.new += 1;
        Ok(())
    }

    fn take(&mut self, table: Table) -> u32 {
        match self.next.iter_mut().find(|(name, _)| *name == table.name) {
            Some((_, next)) => {
                *next += 1;
                *next - 1
            }
            None => table.rows,
        }
    }

    async fn new_company(&mut self) -> Result<Entered, DemoError> {
        let mut code = String::new();
        self.insert(ENTERPRISE, |row| {
            code = row.get(1).and_then(Value::as_str).unwrap_or_default().trim().to_uppercase();
        })
        .await?;
        Ok(Entered { code, at: Instant::now() })
    }

    async fn correct_company(&mut self, step: u32) -> Result<(), DemoError> {
        let number = 1 + step * 7919 % ENTERPRISE.rows;
        let sql = "UPDATE qy_jbxx SET zs = zs || '附楼', fddbr = ?1, djzt = ?2, zczb = zczb + 1 WHERE qybh = ?3";
        let state = if step.is_multiple_of(3) { "注销" } else { "存续" };
        self.run(ENTERPRISE.system, sql, &[json!(person(step)), json!(state), json!(number)]).await?;
        self.typed.corrected += 1;
        Ok(())
    }

    async fn finish_case(&mut self, step: u32) -> Result<(), DemoError> {
        let number = 1 + step * 7919 % CASE.rows;
        let sql = r#"UPDATE "办件" SET "状态" = ?1, "办结时间" = '2025-12-30 16:00:00', "办理结果" = '准予' WHERE "流水号" = ?2"#;
        let state = if step.is_multiple_of(5) { "办理" } else { "办结" };
        self.run(CASE.system, sql, &[json!(state), json!(format!("BJ45{number:010}"))]).await?;
        self.typed.corrected += 1;
        Ok(())
    }

    async fn advance_project(&mut self, step: u32) -> Result<(), DemoError> {
        let number = 1 + step * 7919 % PROJECT.rows;
        let sql = "UPDATE project_info SET state = ?1, total_money = total_money + 50 WHERE deal_code = ?2";
        let state = if step.is_multiple_of(2) { "终止" } else { "竣工" };
        self.run(PROJECT.system, sql, &[json!(state), json!(format!("DEAL{number:08}"))]).await?;
        self.typed.corrected += 1;
        Ok(())
    }

    async fn withdraw(&mut self, step: u32) -> Result<(), DemoError> {
        let (table, key) = if step % 40 < 20 { (LICENCE, "XK_ID") } else { (PENALTY, "序号") };
        let number = 1 + step * 7919 % table.rows;
        let sql = format!("DELETE FROM \"{}\" WHERE \"{key}\" = ?1", table.name);
        self.run(table.system, &sql, &[json!(number)]).await?;
        self.typed.withdrawn += 1;
        Ok(())
    }

    /// Three mistakes that clerks make; every fourth is found and put right a moment later.
    async fn mistake(&mut self, step: u32) -> Result<(), DemoError> {
        let kind = step / 50 % 3;
        let (table, column) = match kind {
            0 => (ENTERPRISE, "tyshxydm"),
            1 => (PENALTY, "处罚决定日期"),
            _ => (ENTERPRISE, "fddbr"),
        };
        let number = self.take(table);
        let mut row = (table.row)(number);
        let mut right = Value::Null;
        let at = table.columns.iter().position(|name| *name == column);
        if let Some(cell) = at.and_then(|at| row.get_mut(at)) {
            let wrong = match kind {
                0 => json!(codes::with_wrong_check(&super::generate::company_code(number))),
                1 => json!("2098年1月1日"),
                _ => json!(" "),
            };
            right = std::mem::replace(cell, wrong);
        }
        self.run(table.system, &table.insert(), &[json!([row])]).await?;
        self.typed.wrong += 1;
        if step / 50 % 4 == 1 {
            let sql = format!("UPDATE \"{}\" SET \"{column}\" = ?1 WHERE \"{}\" = ?2", table.name, table.key());
            self.run(table.system, &sql, &[right, json!(number)]).await?;
            self.typed.corrected += 1;
        }
        Ok(())
    }
}
