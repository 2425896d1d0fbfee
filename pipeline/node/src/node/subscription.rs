//! Questions about subscriptions: what they have set aside, their pause, delivering everything again. Answered by the deliverers
//! that run here.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use guitong_deliver::pull::OutboxFile;
use guitong_deliver::{Audited, CommandError, DelivererHandle, Parked, Place, Since, Verify, Word, audited};
use guitong_log::{OwnerId, Role};
use guitong_schemas::contract::{SinkConfig, Subscription};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Shared;
use super::quarantine::told;
use crate::exit::Failure;
use crate::pull::Pulled;

/// What a command asks of the node that runs a subscription. Entries are named by their places in the topic; none means all.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub(crate) enum About {
    /// Records set aside, by place, of each subscription; answered with [`AsidePage`].
    Parked {
        subscription: Option<String>,
        after: Option<String>,
        limit: usize,
    },
    Show {
        subscription: String,
        id: String,
        values: bool,
    },
    Replay {
        subscription: String,
        ids: Vec<String>,
    },
    Drop {
        subscription: String,
        ids: Vec<String>,
        word: Word,
    },
    Pause {
        subscription: String,
        word: Word,
    },
    Resume {
        subscription: String,
    },
    Resync {
        subscription: String,
        word: Word,
    },
    /// Takes back what was delivered under a grant that has ended; answered with the number of rows.
    Purge {
        subscription: String,
        word: Word,
    },
    /// Delivers again what came since; answered with a list of [`guitong_deliver::Redelivered`].
    Redeliver {
        subscription: String,
        since: Since,
        word: Word,
    },
    /// Compares the sink with what is granted; answered with [`guitong_deliver::Verification`].
    Verify {
        subscription: String,
        ask: Verify,
    },
    /// How far the comparison under way is, or `null`; answered with [`guitong_deliver::Comparing`].
    Comparing {
        subscription: String,
    },
    /// A new token for a subscription that is pulled; answered with [`Issued`].
    Token {
        subscription: String,
        days: u32,
        by: String,
    },
}

/// A token, on its way to whoever asked for it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Issued {
    pub(crate) token: String,
    /// RFC 3339, on the exchange's clock.
    pub(crate) expires: String,
    /// Where the subscriber asks.
    pub(crate) listen: String,
}

/// A record that is set aside, as it is listed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Aside {
    pub(crate) subscription: String,
    pub(crate) id: String,
    /// When it was set aside, on the exchange's clock.
    pub(crate) local_time: String,
    #[serde(flatten)]
    pub(crate) parked: Parked,
}

/// A page of them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AsidePage {
    pub(crate) entries: Vec<Aside>,
    /// There are more, of the last entry's subscription or of one after it.
    pub(crate) more: bool,
}

fn failed(error: CommandError) -> Failure {
    match error {
        CommandError::NoEntry(_) => Failure::no(error.to_string()).help("guitong subscription parked list shows those there are"),
        CommandError::NotNow(_) => Failure::no(error.to_string()),
        CommandError::Unfit(_) => Failure::usage(error.to_string()),
        CommandError::Gap(_) => Failure::gap(error.to_string()),
        error => Failure::unreachable(error.to_string()),
    }
}

fn place(id: &str) -> Result<Place, Failure> {
    Place::from_str(id).map_err(Failure::usage)
}

fn places(ids: &[String]) -> Result<Vec<Place>, Failure> {
    ids.iter().map(|id| place(id)).collect()
}

impl Shared {
    async fn deliverers(&self, only: Option<&str>) -> Result<Vec<(Subscription, DelivererHandle)>, Failure> {
        let state = self.state.read().await;
        let all = state.parts.values().filter_map(super::Part::deliverer);
        let chosen = all.filter(|(subscription, _)| only.is_none_or(|name| subscription.name.as_str() == name));
        let chosen: Vec<_> = chosen.map(|(subscription, handle)| (subscription.clone(), handle.clone())).collect();
        match only {
            Some(name) if chosen.is_empty() => Err(Failure::usage(format!("no subscription `{name}` runs on this node"))),
            _ => Ok(chosen),
        }
    }

    async fn deliverer(&self, name: &str) -> Result<DelivererHandle, Failure> {
        let found = self.deliverers(Some(name)).await?.pop().map(|(_, handle)| handle);
        found.ok_or_else(|| Failure::usage(format!("no subscription `{name}` runs on this node")))
    }

    pub(super) async fn subscription(&self, about: About) -> Result<Value, Failure> {
        match about {
            About::Parked { subscription, after, limit } => told(self.parked(subscription.as_deref(), after, limit).await?),
            About::Show { subscription, id, values } => {
                let handle = self.deliverer(&subscription).await?;
                told(handle.show(place(&id)?, values).await.map_err(failed)?)
            }
            About::Replay { subscription, ids } => {
                let handle = self.deliverer(&subscription).await?;
                told(handle.replay(places(&ids)?).await.map_err(failed)?)
            }
            About::Drop { subscription, ids, word } => {
                let handle = self.deliverer(&subscription).await?;
                told(handle.surrender(places(&ids)?, word).await.map_err(failed)?)
            }
            About::Redeliver { subscription, since, word } => {
                let redelivered = self.deliverer(&subscription).await?.redeliver(since, word).await;
                told(redelivered.map_err(|error| {
                    let gap = matches!(error, CommandError::Gap(_));
                    let help =
                        format!("everything from the log, and nothing that is gone: guitong subscription resync {subscription}");
                    if gap { failed(error).help(help) } else { failed(error) }
                })?)
            }
            About::Verify { subscription, ask } => {
                let handle = self.deliverer(&subscription).await?;
                let _alone = self.comparing.lock().await;
                told(handle.verify(&ask).await.map_err(failed)?)
            }
            About::Comparing { subscription } => told(self.deliverer(&subscription).await?.comparing()),
            About::Token { subscription, days, by } => told(self.issue(&subscription, days, &by).await?),
            About::Pause { subscription, word } => told(self.deliverer(&subscription).await?.pause(word).await.map_err(failed)?),
            About::Resume { subscription } => told(self.deliverer(&subscription).await?.resume().await.map_err(failed)?),
            About::Purge { subscription, word } => told(self.deliverer(&subscription).await?.purge(word).await.map_err(failed)?),
            About::Resync { subscription, word } => {
                told(self.deliverer(&subscription).await?.resync(word).await.map_err(failed)?)
            }
        }
    }

    /// The outboxes of the exchange; none with Kafka.
    pub(crate) async fn outboxes(&self) -> Option<Arc<OutboxFile>> {
        let path = OutboxFile::path_of(&self.state.read().await.directory.exchange)?;
        Some(self.stages.pools().outbox(&path))
    }

    /// A subscription that the directory in force says is pulled.
    pub(crate) async fn pulled(&self, name: &str) -> Option<Pulled> {
        let state = self.state.read().await;
        let declared = state.directory.subscriptions.get(name)?;
        if !matches!(declared.sink, SinkConfig::Pull { .. }) {
            return None;
        }
        let running = state.parts.get(&OwnerId::new(Role::Deliver, name)).and_then(|part| {
            // One that was started with what is no longer in force is about to stop.
            let (_, handle) = part.deliverer().filter(|(subscription, _)| *subscription == &**declared)?;
            Some((handle.puller()?.clone(), part.stopping().clone()))
        });
        Some(Pulled { holder: declared.subscriber.to_string(), running })
    }

    pub(super) async fn audited(&self, subscription: Option<&str>) -> Result<Vec<Audited>, Failure> {
        let mut known = BTreeMap::new();
        for (declared, handle) in self.deliverers(subscription).await? {
            known.insert(declared.name.to_string(), handle.last_audited().await.map_err(failed)?);
        }
        let mut all = audited(&*self.opened.log, &known).await?;
        all.retain(|audited| subscription.is_none_or(|name| audited.subscription == name));
        Ok(all)
    }

    async fn issue(&self, name: &str, days: u32, by: &str) -> Result<Issued, Failure> {
        let (Some(pulled), Some(outboxes)) = (self.pulled(name).await, self.outboxes().await) else {
            return Err(Failure::usage(format!("subscription `{name}` is not pulled"))
                .help("a subscription is pulled where its file says kind = \"pull\" under [sink]"));
        };
        let valid = Duration::from_secs(u64::from(days) * 86_400);
        let issued = outboxes.issue(name, &pulled.holder, valid).await;
        let (token, expires_us) = issued.map_err(|error| Failure::unreachable(error.to_string()))?;
        let state = self.state.read().await;
        let expires = jiff::Timestamp::from_microsecond(expires_us).unwrap_or_default();
        let expires = expires.to_zoned(state.directory.exchange.time_zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        tracing::info!(subscription = name, by, expires, "a token was issued; the one before is void");
        Ok(Issued { token: token.reveal().to_owned(), expires, listen: state.listen.clone() })
    }

    async fn parked(&self, subscription: Option<&str>, after: Option<String>, limit: usize) -> Result<AsidePage, Failure> {
        let zone = self.state.read().await.directory.exchange.time_zone.clone();
        let after = after.map(|id| place(&id)).transpose()?;
        let mut page = AsidePage { entries: Vec::new(), more: false };
        for (subscription, handle) in self.deliverers(subscription).await? {
            // One entry behind the last one says that there are more.
            let room = limit.saturating_sub(page.entries.len());
            let mut entries = handle.parked(after, room + 1).await.map_err(failed)?;
            page.more |= entries.len() > room;
            entries.truncate(room);
            page.entries.extend(entries.into_iter().map(|parked| listed(&subscription, parked, &zone)));
        }
        Ok(page)
    }
}

fn listed(subscription: &Subscription, parked: Parked, zone: &TimeZone) -> Aside {
    let time = jiff::Timestamp::from_microsecond(parked.at_us).unwrap_or_default().to_zoned(zone.clone());
    Aside {
        subscription: subscription.name.to_string(),
        id: parked.place().to_string(),
        local_time: time.strftime("%Y-%m-%d %H:%M:%S %:z").to_string(),
        parked,
    }
}
