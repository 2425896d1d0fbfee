//! The quick start's files, carried in the binary.

macro_rules! quickstart {
    ($($path:expr),*) => {
        include_str!(concat!("../../../../deploy/quickstart/", $($path),*))
    };
}

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, quickstart!($path))),*]
    };
}

/// The exchange directory, by path.
pub(super) const DIRECTORY: &[(&str, &str)] = files![
    "departments/credit-office.toml",
    "departments/development-reform.toml",
    "departments/market-regulation.toml",
    "departments/service-hall.toml",
    "departments/trading-centre.toml",
    "exchange.toml",
    "resources/deal.toml",
    "resources/enterprise.toml",
    "resources/licence.toml",
    "resources/penalty.toml",
    "resources/project.toml",
    "resources/service-case.toml",
    "subscriptions/credit-case.toml",
    "subscriptions/credit-deal.toml",
    "subscriptions/credit-enterprise.toml",
    "subscriptions/credit-project.toml",
    "subscriptions/hall-enterprise.toml",
    "subscriptions/hall-licence.toml",
    "subscriptions/hall-project.toml",
    "subscriptions/market-licence.toml",
    "subscriptions/projects-deal.toml",
    "subscriptions/projects-enterprise.toml",
    "subscriptions/projects-penalty.toml",
    "subscriptions/trading-enterprise.toml",
    "subscriptions/trading-penalty.toml",
    "subscriptions/trading-project.toml",
    "systems/credit.toml",
    "systems/hall.toml",
    "systems/projects.toml",
    "systems/registration.toml",
    "systems/trading.toml",
];

/// Tables of each department, by system.
pub(super) const DATABASES: &[(&str, &str)] = &[
    ("credit", quickstart!("databases/credit.sql")),
    ("hall", quickstart!("databases/hall.sql")),
    ("projects", quickstart!("databases/projects.sql")),
    ("registration", quickstart!("databases/registration.sql")),
    ("trading", quickstart!("databases/trading.sql")),
];

/// What a subscription is to hold: two pieces of plain SQL, the resource's view and the subscription's query on it.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) subscription: &'static str,
    pub(super) view: &'static str,
    pub(super) query: &'static str,
}

macro_rules! expected {
    ($($subscription:literal from $resource:literal),* $(,)?) => {
        &[$(Expected {
            subscription: $subscription,
            view: quickstart!("expected/", $resource, ".sql"),
            query: quickstart!("expected/", $subscription, ".sql"),
        }),*]
    };
}

pub(super) const EXPECTED: &[Expected] = expected![
    "credit-case" from "service-case",
    "credit-deal" from "deal",
    "credit-enterprise" from "enterprise",
    "credit-project" from "project",
    "hall-enterprise" from "enterprise",
    "hall-licence" from "licence",
    "hall-project" from "project",
    "market-licence" from "licence",
    "projects-deal" from "deal",
    "projects-enterprise" from "enterprise",
    "projects-penalty" from "penalty",
    "trading-enterprise" from "enterprise",
    "trading-penalty" from "penalty",
    "trading-project" from "project",
];
