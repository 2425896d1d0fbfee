//! A connection for one call.

use std::ops::{Deref, DerefMut};

use sqlx::Database;
use sqlx::pool::PoolConnection;

/// A call that is dropped half-way may leave its connection within an answer of the server, from which the driver does not find back:
/// what came next on it would be taken for the answer to something else. Such a connection is closed and does not go back to the pool.
pub(crate) struct Lease<DB: Database> {
    connection: PoolConnection<DB>,
    /// The call came to its end.
    pub(crate) ended: bool,
}

impl<DB: Database> From<PoolConnection<DB>> for Lease<DB> {
    fn from(connection: PoolConnection<DB>) -> Self {
        Self { connection, ended: false }
    }
}

impl<DB: Database> Deref for Lease<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

impl<DB: Database> DerefMut for Lease<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }
}

impl<DB: Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}
