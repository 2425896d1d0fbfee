//! Alternating runs and their medians.

use std::time::Instant;

/// One contestant: its name and what runs it once, giving how many units it did.
pub(crate) type Contestant<'a> = (&'static str, Box<dyn FnMut() -> u64 + 'a>);

/// Runs all contestants `runs` times in turn and prints the median of each as units a second, with its ratio to the last, the reference.
pub(crate) fn compare(title: &str, unit: &str, runs: usize, mut contestants: Vec<Contestant<'_>>) {
    let mut rates: Vec<Vec<f64>> = vec![Vec::with_capacity(runs); contestants.len()];
    for _ in 0..runs {
        for ((_, run), rates) in contestants.iter_mut().zip(&mut rates) {
            let begun = Instant::now();
            let done = run();
            rates.push(done as f64 / begun.elapsed().as_secs_f64());
        }
    }
    let medians: Vec<f64> = rates.iter_mut().map(|rates| median(rates)).collect();
    let reference = medians.last().copied().unwrap_or(f64::NAN);
    println!("{title} ({runs} alternating runs, medians)");
    for ((name, _), median) in contestants.iter().zip(&medians) {
        println!("  {name:<40} {:>14} {unit}/s   {:>7.2} x reference", grouped(*median), median / reference);
    }
}

/// Middle of the values; the upper one of two.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `1,234,567`.
pub(crate) fn grouped(value: f64) -> String {
    guitong::text::count(value.max(0.0) as u64)
}
