//! Statements on the exchange's own tables, written where they are used: each of a thousand subscriptions would keep the same ones.

use super::table::Place;

pub(super) struct Own<'p> {
    pub(super) place: &'p Place,
}

impl Own<'_> {
    fn subscriptions(&self) -> String {
        self.place.qualified("guitong_subscriptions")
    }

    fn offsets(&self) -> String {
        self.place.qualified("guitong_offsets")
    }

    fn deleted(&self) -> String {
        self.place.qualified("guitong_deleted")
    }

    pub(super) fn stored(&self) -> String {
        format!(
            "SELECT table_name, made, log_id, topic, epoch, sweep_epoch, grant_fingerprint, shape, entries
             FROM {} WHERE subscription = $1",
            self.subscriptions()
        )
    }

    pub(super) fn store(&self) -> String {
        format!(
            "INSERT INTO {}
                (subscription, table_name, made, log_id, topic, epoch, sweep_epoch, grant_fingerprint, shape)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (subscription) DO UPDATE SET table_name = excluded.table_name, made = excluded.made,
                log_id = excluded.log_id, topic = excluded.topic, epoch = excluded.epoch, sweep_epoch = excluded.sweep_epoch,
                grant_fingerprint = excluded.grant_fingerprint, shape = excluded.shape",
            self.subscriptions()
        )
    }

    pub(super) fn set_sweep(&self) -> String {
        format!("UPDATE {} SET sweep_epoch = $3 WHERE subscription = $1 AND epoch = $2", self.subscriptions())
    }

    pub(super) fn partitions(&self) -> String {
        format!(
            "SELECT partition, next_offset, refill_to FROM {} WHERE subscription = $1 AND topic = $2 ORDER BY partition",
            self.offsets()
        )
    }

    pub(super) fn insert_offset(&self) -> String {
        format!(
            "INSERT INTO {}
                (subscription, log_id, topic, partition, next_offset, refill_to, epoch, batch_count, batch_digest)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, '')",
            self.offsets()
        )
    }

    pub(super) fn delete_offsets(&self) -> String {
        format!("DELETE FROM {} WHERE subscription = $1", self.offsets())
    }

    pub(super) fn resume_offsets(&self) -> String {
        format!("UPDATE {} SET epoch = $2 WHERE subscription = $1", self.offsets())
    }

    /// Each offset moves on only from where the batch starts, and only for the holder of the epoch.
    pub(super) fn move_offsets(&self) -> String {
        format!(
            "WITH moved AS (
                UPDATE {} o SET next_offset = r.next, batch_count = $4, batch_digest = $5
                FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS r(partition, previous, next)
                WHERE o.subscription = $6 AND o.topic = $7 AND o.partition = r.partition AND o.next_offset = r.previous
                    AND o.epoch = $8
                RETURNING 1
             ), noted AS (
                UPDATE {} SET entries = $9 WHERE subscription = $6 AND epoch = $8 RETURNING 1
             )
             SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM noted)",
            self.offsets(),
            self.subscriptions()
        )
    }

    pub(super) fn remembers(&self) -> String {
        format!("SELECT EXISTS (SELECT 1 FROM {} WHERE subscription = $1)", self.deleted())
    }

    pub(super) fn forget(&self) -> String {
        format!("DELETE FROM {} WHERE subscription = $1 AND deleted_us < $2", self.deleted())
    }
}
