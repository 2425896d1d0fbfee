//! What subscriptions of one node share of their endpoints: connections where the rules of connecting are the same, and for each
//! address the knowledge whether it answers.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use guitong_schemas::contract::webhook::Network;
use reqwest::Client;

use super::breaker::Breaker;
use crate::sink::SinkError;

/// What decides to whom a client connects and how it proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Rules {
    pub(crate) networks: Vec<Network>,
    pub(crate) public: bool,
    /// SHA-256 of the PEM files: what is renewed makes another client.
    pub(crate) ca: Option<[u8; 32]>,
    pub(crate) identity: Option<[u8; 32]>,
}

/// One for the node.
#[derive(Default)]
pub(crate) struct Endpoints {
    clients: Mutex<HashMap<Rules, Client>>,
    breakers: Mutex<HashMap<String, Arc<Breaker>>>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses may hold tokens.
        f.write_str("Endpoints")
    }
}

impl Endpoints {
    /// The client of these rules; `make` makes it where there is none yet.
    pub(super) fn client(&self, rules: Rules, make: impl FnOnce() -> Result<Client, SinkError>) -> Result<Client, SinkError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&rules) {
            return Ok(client.clone());
        }
        let client = make()?;
        clients.insert(rules, client.clone());
        Ok(client)
    }

    pub(super) fn breaker(&self, url: &str) -> Arc<Breaker> {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(breakers.entry(url.to_owned()).or_default())
    }
}
