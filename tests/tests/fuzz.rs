//! The seeds of every fuzz target, and a bounded number of changed ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use guitong_tests::fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const LONGEST: usize = 4 << 10;

fn seeds(target: Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn run(target: Target, input: &[u8]) {
    let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(ended.is_ok(), "{} panics on {}", target.name, hex::encode(input));
}

/// A seed with some bytes changed, cut out, repeated, or taken from another seed.
fn changed(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    const TELLING: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'\\', b'"', b'{', b'}', b',', b'-', b'9'];
    let mut input = seeds.choose(random).unwrap().clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=input.len());
        let end = random.random_range(at..=input.len().min(at + 8));
        match random.random_range(0..6) {
            0 => drop(input.drain(at..end)),
            1 => input.insert(at, random.random()),
            2 => input.insert(at, *TELLING.choose(random).unwrap()),
            3 => {
                let repeated = input[at..end].repeat(random.random_range(1..20));
                input.splice(at..at, repeated);
            }
            4 => {
                let other = seeds.choose(random).unwrap();
                let from = random.random_range(0..=other.len());
                input.splice(at.., other[from..].iter().copied());
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
    input.truncate(LONGEST);
    input
}

#[test]
fn no_bytes_from_outside_bring_a_decoder_down() {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    for target in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        seeds.iter().for_each(|input| run(target, input));
        for _ in 0..target.inputs {
            run(target, &changed(&seeds, &mut random));
        }
    }
}
