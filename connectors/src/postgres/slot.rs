//! The replication slot: made once, checked at every start, never advanced beyond what the log holds.

use guitong_schemas::contract::system::PostgresConfig;
use guitong_schemas::position::Lsn;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::fault::Faults;
use super::position::Position;
use super::timeline;
use super::wire::Identity;
use crate::source::SourceError;

/// A slot as `pg_replication_slots` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    /// `None` for a physical one.
    pub plugin: Option<String>,
    pub database: Option<String>,
    /// The server process that streams from it.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why a `lost` one is lost; servers before 17 do not say.
    invalidation: Option<String>,
    pub(crate) confirmed: Option<Lsn>,
    /// Bytes of log that the server keeps for it.
    pub retained: Option<u64>,
    /// Bytes that may still be written before the server removes what was not read; `None` where `max_slot_wal_keep_size` sets no
    /// bound.
    pub(crate) left: Option<u64>,
    /// Whether standbys may keep a copy of it; servers before 17 do not say.
    pub failover: Option<bool>,
    /// Transactions come from it when they are prepared.
    two_phase: bool,
}

impl Slot {
    /// Whether the exchange made it and nobody reads from it. It is an orphan then, unless a system names it.
    #[must_use]
    pub fn is_idle_of(&self, exchange: &str) -> bool {
        self.plugin.as_deref() == Some("pgoutput")
            && self.active_pid.is_none()
            && self.name.starts_with(&format!("{}_", exchange.replace('-', "_")))
    }

    /// The server has removed what was not read.
    pub(crate) fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost")
    }

    /// Four fifths of what the server keeps at most are used.
    pub(crate) fn is_near_the_bound(&self) -> bool {
        self.left.is_some_and(|left| left < self.retained.unwrap_or(0) / 4)
    }
}

/// Where a start goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// A new slot is to be made.
    New,
    /// A slot that nobody has read from on our behalf: everything from its place on.
    Adopt(Lsn),
    Resume,
}

/// What stands in the way of a start.
#[derive(Debug)]
pub(crate) enum Obstacle {
    Fault(SourceError),
    /// Changes may be missing: why.
    Gap(String),
}

pub(crate) async fn find(connection: &mut PgConnection, name: &str) -> Result<Option<Slot>, sqlx::Error> {
    Ok(ask(connection, Some(name)).await?.pop())
}

/// The slot with this name, or all, by name.
pub(crate) async fn ask(connection: &mut PgConnection, name: Option<&str>) -> Result<Vec<Slot>, sqlx::Error> {
    // A standby has no place of its own to write at.
    let rows = sqlx::query(
        "SELECT slot_name::text AS name, plugin::text, database::text, active_pid, wal_status, \
         to_jsonb(s) ->> 'invalidation_reason' AS invalidation, (confirmed_flush_lsn - '0/0'::pg_lsn)::int8 AS confirmed, \
         (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - restart_lsn)::int8 AS retained, \
         safe_wal_size AS left, (to_jsonb(s) ->> 'failover')::bool AS failover, \
         two_phase \
         FROM pg_replication_slots s WHERE $1::text IS NULL OR slot_name = $1 ORDER BY slot_name",
    )
    .bind(name)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<Slot, sqlx::Error> {
    let number = |column: &str| row.try_get::<Option<i64>, _>(column);
    let bytes = |column: &str| Ok::<_, sqlx::Error>(number(column)?.map(|bytes| u64::try_from(bytes).unwrap_or(0)));
    Ok(Slot {
        name: row.try_get("name")?,
        plugin: row.try_get("plugin")?,
        database: row.try_get("database")?,
        active_pid: row.try_get("active_pid")?,
        wal_status: row.try_get("wal_status")?,
        invalidation: row.try_get("invalidation")?,
        confirmed: number("confirmed")?.map(|lsn| Lsn(lsn.cast_unsigned())),
        retained: bytes("retained")?,
        left: bytes("left")?,
        failover: row.try_get("failover")?,
        two_phase: row.try_get("two_phase")?,
    })
}

/// Makes the slot; waits until the transactions that are open now have ended. Gives the place from which it streams. With `failover`,
/// which servers before 17 do not know, standbys may keep a copy of it.
pub(crate) async fn make(connection: &mut PgConnection, name: &str, failover: bool) -> Result<Lsn, sqlx::Error> {
    // That wait is for locks of transactions, however long they are open.
    sqlx::raw_sql("SET lock_timeout = 0").execute(&mut *connection).await?;
    let sql = if failover {
        "SELECT (lsn - '0/0'::pg_lsn)::int8 FROM pg_create_logical_replication_slot($1, 'pgoutput', failover => true)"
    } else {
        "SELECT (lsn - '0/0'::pg_lsn)::int8 FROM pg_create_logical_replication_slot($1, 'pgoutput')"
    };
    let lsn: i64 = sqlx::query_scalar(sql).bind(name).fetch_one(&mut *connection).await?;
    sqlx::raw_sql("RESET lock_timeout").execute(connection).await?;
    Ok(Lsn(lsn.cast_unsigned()))
}

pub(crate) async fn drop_slot(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_drop_replication_slot($1)").bind(name).execute(connection).await.map(|_| ())
}

/// Compares slot, position and server.
pub(crate) fn check(
    slot: Option<&Slot>,
    position: Option<&Position>,
    server: &Identity,
    database: &str,
    config: &PostgresConfig,
    faults: &Faults,
) -> Result<Start, Obstacle> {
    let name = &config.slot;
    if let Some(slot) = slot {
        check_kind(slot, name, database, faults).map_err(Obstacle::Fault)?;
    }
    if let Some(position) = position {
        check_server(position, server).map_err(Obstacle::Gap)?;
    }
    let Some(slot) = slot else {
        return match position {
            None => Ok(Start::New),
            Some(position) => Err(Obstacle::Gap(gone(name, position, server))),
        };
    };
    if slot.is_lost() {
        let reason = match slot.invalidation.as_deref() {
            None | Some("wal_removed") => "the server removed more than max_slot_wal_keep_size lets it keep",
            Some("idle_timeout") => "nobody read from it for idle_replication_slot_timeout",
            Some("wal_level_insufficient") => "the server ran with a wal_level below logical",
            Some(other) => other,
        };
        return Err(Obstacle::Gap(format!("replication slot {name} has lost its log: {reason}")));
    }
    let confirmed = slot.confirmed.unwrap_or_default();
    match position {
        None => Ok(Start::Adopt(confirmed)),
        Some(position) if confirmed > position.lsn => Err(Obstacle::Gap(format!(
            "replication slot {name} is confirmed up to {confirmed}, the exchange log ends at {}: the log was restored from a \
             backup, or another consumer reads from this slot",
            position.lsn
        ))),
        Some(_) => Ok(Start::Resume),
    }
}

fn gone(name: &str, position: &Position, server: &Identity) -> String {
    let lost = format!("changes after {} that it kept may be lost", position.lsn);
    if position.timeline == server.timeline {
        return format!("replication slot {name} is gone; {lost}");
    }
    format!(
        "the server is on timeline {}, so a standby took over, and replication slot {name} is gone: the standby had no copy of it \
         (failover = true of the system and sync_replication_slots of the standby keep one); {lost}",
        server.timeline
    )
}

fn check_kind(slot: &Slot, name: &str, database: &str, faults: &Faults) -> Result<(), SourceError> {
    let other = "name another slot in the system's file, or drop this one if nobody needs it: \
                 SELECT pg_drop_replication_slot";
    if slot.plugin.as_deref() != Some("pgoutput") {
        let plugin = slot.plugin.as_deref().map_or("physical".to_owned(), |plugin| format!("of plugin {plugin}"));
        return Err(faults
            .setup(format!("replication slot {name} exists and is {plugin}, not of pgoutput"), format!("{other}('{name}')")));
    }
    if slot.database.as_deref() != Some(database) {
        let of = slot.database.as_deref().unwrap_or("no database");
        return Err(faults.setup(
            format!("replication slot {name} belongs to database {of}, this system reads {database}"),
            format!("{other}('{name}')"),
        ));
    }
    if slot.two_phase {
        return Err(faults.setup(
            format!(
                "replication slot {name} was made with two_phase, so that it sends transactions when they are prepared; this connector \
                 takes them when they are committed"
            ),
            format!("drop it, and the connector makes one of its own: SELECT pg_drop_replication_slot('{name}')"),
        ));
    }
    if let Some(pid) = slot.active_pid {
        return Err(faults.unavailable(format!(
            "replication slot {name} is in use by server process {pid}; an earlier connection of this connector is let go when \
             the server notices its end; if it stays so, another consumer uses the slot: give this system a slot of its own"
        )));
    }
    Ok(())
}

/// The server is the one that the position was made on, or one that took over from it, and has not gone back.
fn check_server(position: &Position, server: &Identity) -> Result<(), String> {
    let Identity { system_id, end, .. } = server;
    if position.system_id != *system_id {
        return Err(format!(
            "the server's system identifier is {system_id}, changes were read from {}: this is another server",
            position.system_id
        ));
    }
    timeline::follow(position, server)?;
    if position.lsn > *end {
        return Err(format!("the server's log ends at {end}, before {}, up to where it was read: it was restored", position.lsn));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::relation::tests::system;
    use super::super::timeline::History;
    use super::*;

    fn slot() -> Slot {
        Slot {
            name: "exchange_register".into(),
            plugin: Some("pgoutput".into()),
            database: Some("register".into()),
            active_pid: None,
            wal_status: Some("reserved".into()),
            invalidation: None,
            confirmed: Some(Lsn(100)),
            retained: Some(0),
            left: None,
            failover: None,
            two_phase: false,
        }
    }

    fn checked(slot: Option<Slot>, position: Option<(u64, u32, &str)>) -> Result<Start, String> {
        let system = system();
        let guitong_schemas::contract::SourceConfig::Postgres(config) = &system.source else { panic!("not PostgreSQL") };
        let position = position.map(|(lsn, timeline, id)| Position::new(id.into(), timeline, 1, Lsn(lsn)));
        let server = Identity { system_id: "7".into(), timeline: 1, history: History::default(), end: Lsn(1_000) };
        check(slot.as_ref(), position.as_ref(), &server, "register", config, &Faults::of(&system)).map_err(|obstacle| {
            match obstacle {
                Obstacle::Fault(error) => error.to_string(),
                Obstacle::Gap(detail) => format!("gap: {detail}"),
            }
        })
    }

    #[test]
    fn starts_and_gaps() {
        let gap = |result: Result<Start, String>, words: &str| {
            let text = result.unwrap_err();
            assert!(text.starts_with("gap: ") && text.contains(words), "{text}");
        };
        assert_eq!(checked(None, None), Ok(Start::New));
        assert_eq!(checked(Some(slot()), None), Ok(Start::Adopt(Lsn(100))));
        assert_eq!(checked(Some(slot()), Some((100, 1, "7"))), Ok(Start::Resume));
        gap(checked(None, Some((100, 1, "7"))), "is gone");
        gap(checked(Some(slot()), Some((99, 1, "7"))), "confirmed up to 0/64");
        gap(checked(Some(slot()), Some((100, 2, "7"))), "the server is on timeline 1, which does not come from timeline 2");
        gap(checked(Some(slot()), Some((100, 1, "8"))), "system identifier");
        gap(checked(Some(slot()), Some((1_001, 1, "7"))), "the server's log ends at");
        let lost = Slot { wal_status: Some("lost".into()), ..slot() };
        gap(
            checked(Some(lost.clone()), Some((100, 1, "7"))),
            "lost its log: the server removed more than max_slot_wal_keep_size",
        );
        let idle = Slot { invalidation: Some("idle_timeout".into()), ..lost };
        gap(checked(Some(idle), Some((100, 1, "7"))), "for idle_replication_slot_timeout");
    }

    #[test]
    fn slots_of_others_are_left_alone() {
        for (other, words) in [
            (Slot { plugin: Some("test_decoding".into()), ..slot() }, "of plugin test_decoding"),
            (Slot { plugin: None, ..slot() }, "physical"),
            (Slot { two_phase: true, ..slot() }, "was made with two_phase"),
            (Slot { database: Some("other".into()), ..slot() }, "belongs to database other"),
            (Slot { active_pid: Some(7), ..slot() }, "in use by server process 7"),
        ] {
            let text = checked(Some(other), None).unwrap_err();
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn what_others_made_or_somebody_reads_is_no_orphan() {
        let named = |name: &str| Slot { name: name.into(), ..slot() };
        let idle = |slot: Slot| slot.is_idle_of("gui-region");
        assert!(idle(named("gui_region_old")));
        assert!(!idle(named("gui_regionold")), "another exchange's");
        assert!(!idle(named("debezium")));
        assert!(!idle(Slot { active_pid: Some(7), ..named("gui_region_old") }));
        assert!(!idle(Slot { plugin: None, ..named("gui_region_old") }), "a standby's");
        assert!(!idle(Slot { plugin: Some("wal2json".into()), ..named("gui_region_old") }));
    }

    #[test]
    fn the_bound_is_near_once_a_fifth_is_left() {
        let near = |retained, left| Slot { retained, left, ..slot() }.is_near_the_bound();
        assert!(near(Some(81), Some(19)) && near(Some(100), Some(0)));
        assert!(!near(Some(79), Some(21)) && !near(Some(1 << 40), None) && !near(None, Some(1)));
    }
}
