//! Alternating runs, their medians, and what makes a run void.

use std::time::Duration;

use crate::machine;

/// A reference slower than this part of what it was measured at says that the machine was busy, not that ours is fast.
const SLOWEST_REFERENCE: f64 = 0.8;

/// Whether what was printed counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Valid,
    Void,
}

impl Verdict {
    pub(crate) fn and(self, other: Self) -> Self {
        if self == Self::Valid { other } else { self }
    }
}

/// The contestant that the others are compared with, and what it ran at on an idle machine of two cores, in units a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reference {
    pub(crate) name: &'static str,
    pub(crate) measured: f64,
}

/// What a contestant has to reach: a part of the reference's rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bar {
    pub(crate) name: &'static str,
    pub(crate) ratio: f64,
}

/// Rates of contestants that take turns.
#[derive(Debug)]
pub(crate) struct Rounds {
    title: &'static str,
    unit: &'static str,
    rates: Vec<(&'static str, Vec<f64>)>,
}

impl Rounds {
    pub(crate) fn new(title: &'static str, unit: &'static str) -> Self {
        Self { title, unit, rates: Vec::new() }
    }

    /// Notes one run of a contestant.
    pub(crate) fn add(&mut self, name: &'static str, units: u64, took: Duration) {
        let rate = units as f64 / took.as_secs_f64();
        match self.rates.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rates)) => rates.push(rate),
            None => self.rates.push((name, vec![rate])),
        }
    }

    /// Median rate of one contestant so far.
    pub(crate) fn median(&self, name: &str) -> f64 {
        self.rates.iter().find(|(known, _)| *known == name).map_or(f64::NAN, |(_, rates)| median(&mut rates.clone()))
    }

    /// Prints each contestant's median with all its runs, its ratio to the reference, and whether it reaches its bar.
    pub(crate) fn finish(mut self, reference: Reference, bars: &[Bar]) -> Verdict {
        let medians: Vec<(&str, f64, Vec<f64>)> =
            self.rates.iter_mut().map(|(name, rates)| (*name, median(rates), rates.clone())).collect();
        let base = medians.iter().find(|(name, ..)| *name == reference.name).map_or(f64::NAN, |(_, median, _)| *median);
        println!("{} ({} alternating runs, medians)", self.title, medians.first().map_or(0, |(_, _, rates)| rates.len()));
        for (name, median, rates) in &medians {
            let ratio = median / base;
            let spread = (rates.first().copied().unwrap_or(f64::NAN), rates.last().copied().unwrap_or(f64::NAN));
            print!(
                "  {name:<46} {:>11} {}/s  ({} to {})  {ratio:.2} x reference",
                grouped(*median),
                self.unit,
                grouped(spread.0),
                grouped(spread.1)
            );
            match bars.iter().find(|bar| bar.name == *name) {
                Some(bar) if ratio >= bar.ratio => println!("  bar {:.2}: met", bar.ratio),
                Some(bar) => println!("  bar {:.2}: NOT met", bar.ratio),
                None => println!(),
            }
        }
        if base >= SLOWEST_REFERENCE * reference.measured {
            return Verdict::Valid;
        }
        println!(
            "  void: the reference ran at {} {}/s, below {SLOWEST_REFERENCE} of the {} of an idle machine",
            grouped(base),
            self.unit,
            grouped(reference.measured)
        );
        Verdict::Void
    }
}

/// Runs `work` on this thread and gives what it did with the CPU time that it took: the rate of one core that does nothing else.
pub(crate) fn timed(work: impl FnOnce() -> u64) -> (u64, Duration) {
    let begun = machine::thread_time();
    let done = work();
    (done, machine::thread_time().saturating_sub(begun))
}

/// Middle of the values; the upper one of two. Sorts them.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `1,234,567`.
pub(crate) fn grouped(value: f64) -> String {
    guitong::text::count(value.max(0.0) as u64)
}
