//! Nobody receives what is not granted, and everybody what is: random policies, random changes of them, random histories, through the
//! whole of delivery into every kind of sink. Every cell has a canary; each is looked for wherever bytes can come out.

// Helpers beside the tests may fail as tests do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod canaries;
mod captured;
mod model;
mod places;
mod policy;
mod search;
mod world;

use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::model::ENTITIES;
use crate::places::Servers;
use crate::policy::zone;
use crate::world::World;

/// How often policies change.
const ROUNDS: usize = 3;

/// All that the process logs is looked at, so one run comes after another.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_not_granted_is_anywhere_and_everything_that_is_arrives() {
    run(ENTITIES, 18).await;
}

/// With what they are changed to, a thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_fault_a_thousand_policies_leak_nothing() {
    run(8, 45).await;
}

/// `worlds`: exchanges one after the other, of each entity in turn.
async fn run(worlds: usize, subscribers: usize) {
    let _turn = TURN.lock().await;
    captured::start();
    let (begun, servers) = (Instant::now(), Arc::new(Servers::start().await));
    let (mut policies, mut logged) = (0, 0);
    let mut seeds = StdRng::seed_from_u64(guitong_tests::seed());
    for number in 0..worlds {
        let seed = seeds.random();
        println!("world {number}: {seed}");
        let mut world = World::new(number, seed, number % ENTITIES, subscribers, &servers).await;
        live(&mut world).await;
        policies += world.policies;
        logged += world.logged;
    }
    assert!(logged > 0, "the servers' logs tell what they were sent");
    println!("{policies} policies in {:.1} s", begun.elapsed().as_secs_f64());
}

async fn live(world: &mut World) {
    world.happen(25).await;
    (0..world.subscribers.len()).for_each(|at| world.start(at, zone(None)));
    world.happen(15).await;
    world.settled().await;
    search::assert_entitled(world, "at the begin").await;
    for round in 1..=ROUNDS {
        world.refuse_something();
        world.happen(12).await;
        change_policies(world).await;
        world.happen(12).await;
        world.settled().await;
        search::assert_entitled(world, &format!("in round {round}")).await;
    }
    lapse(world).await;
    for at in 0..world.subscribers.len() {
        world.stop(at, false).await;
    }
    search::assert_kept(world, "at the end").await;
}

/// Some policies are changed, some end, some subscriptions are withdrawn, some come back, some crash; others go on.
async fn change_policies(world: &mut World) {
    let mut changed = Vec::new();
    for at in 0..world.subscribers.len() {
        let what = world.random.random_range(0..10);
        if what == 9 {
            continue;
        }
        if world.subscribers[at].is_webhook() {
            // Of a request that is under way when its sender ends nobody could tell of which policy it is.
            world.settled_one(at).await;
            search::assert_sent(world, at, "before its policy changed");
        }
        let crash = !world.subscribers[at].is_webhook() && world.random.random();
        world.stop(at, crash).await;
        changed.push((at, what));
    }
    // Some while nobody is served by them, which the next policy decides on.
    world.happen(6).await;
    for (at, what) in changed {
        let policy = &world.subscribers[at].policy;
        let next = match what {
            0..6 => policy.changed(&world.model, &mut world.random),
            6 => policy.ended(&mut world.random),
            7 => policy.clone(),
            // Withdrawn until the next round.
            _ => {
                world.subscribers[at].open = false;
                continue;
            }
        };
        world.policies += usize::from(what < 7);
        world.subscribers[at].policy = next;
        world.start(at, zone(None));
    }
}

/// Approvals end by the clock, while everything else goes on.
async fn lapse(world: &mut World) {
    let lapsing: Vec<usize> = (0..world.subscribers.len()).filter(|_| world.random.random_bool(0.2)).collect();
    for &at in &lapsing {
        world.stop(at, false).await;
        world.subscribers[at].policy = world.subscribers[at].policy.until_today();
        world.start(at, zone(Some(2)));
    }
    lapsing.iter().for_each(|&at| world.subscribers[at].open = false);
    world.settled().await;
    world.happen(12).await;
    world.settled().await;
    search::assert_entitled(world, "after approvals ended").await;
}
