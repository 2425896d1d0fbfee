//! Which column goes to which field, so that all of them together fit best.

/// For each row of `scores` (all of one length) the column that it takes, each column once, with the greatest sum: the Hungarian method in
/// the form with potentials. There are at least as many columns as rows.
pub(super) fn best(scores: &[Vec<f64>]) -> Vec<usize> {
    let (rows, columns) = (scores.len(), scores.first().map_or(0, Vec::len));
    let cost = |row: usize, column: usize| -scores.get(row).and_then(|row| row.get(column)).copied().unwrap_or_default();
    let mut row_price = vec![0.0; rows + 1];
    let mut price = vec![0.0; columns + 1];
    // Row of each column, and where the path to it came from; 0 is none.
    let mut taken = vec![0_usize; columns + 1];
    let mut from = vec![0_usize; columns + 1];
    for row in 1..=rows {
        let mut least = vec![f64::INFINITY; columns + 1];
        let mut seen = vec![false; columns + 1];
        let mut at = 0;
        set(&mut taken, 0, row);
        loop {
            set(&mut seen, at, true);
            let held = get(&taken, at);
            let (mut step, mut next) = (f64::INFINITY, 0);
            for column in 1..=columns {
                if get(&seen, column) {
                    continue;
                }
                let reduced = cost(held - 1, column - 1) - get(&row_price, held) - get(&price, column);
                if reduced < get(&least, column) {
                    set(&mut least, column, reduced);
                    set(&mut from, column, at);
                }
                if get(&least, column) < step {
                    (step, next) = (get(&least, column), column);
                }
            }
            for column in 0..=columns {
                if get(&seen, column) {
                    let row = get(&taken, column);
                    let (row_now, now) = (get(&row_price, row) + step, get(&price, column) - step);
                    set(&mut row_price, row, row_now);
                    set(&mut price, column, now);
                } else {
                    let now = get(&least, column) - step;
                    set(&mut least, column, now);
                }
            }
            at = next;
            if get(&taken, at) == 0 {
                break;
            }
        }
        while at != 0 {
            let before = get(&from, at);
            let row = get(&taken, before);
            set(&mut taken, at, row);
            at = before;
        }
    }
    let mut chosen = vec![0; rows];
    for column in 1..=columns {
        let row = get(&taken, column);
        if row > 0 {
            set(&mut chosen, row - 1, column - 1);
        }
    }
    chosen
}

fn get<T: Copy + Default>(values: &[T], at: usize) -> T {
    values.get(at).copied().unwrap_or_default()
}

fn set<T>(values: &mut [T], at: usize, value: T) {
    if let Some(held) = values.get_mut(at) {
        *held = value;
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn sum(scores: &[Vec<f64>], chosen: &[usize]) -> f64 {
        chosen.iter().enumerate().map(|(row, column)| scores[row][*column]).sum()
    }

    fn by_trying(scores: &[Vec<f64>], row: usize, free: &mut Vec<usize>) -> f64 {
        if row == scores.len() {
            return 0.0;
        }
        let mut best = f64::NEG_INFINITY;
        for at in 0..free.len() {
            let column = free.remove(at);
            best = best.max(scores[row][column] + by_trying(scores, row + 1, free));
            free.insert(at, column);
        }
        best
    }

    #[test]
    fn no_other_assignment_has_a_greater_sum() {
        let seed = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..200 {
            let (rows, columns) = (random.random_range(1..6), random.random_range(5..7));
            let scores: Vec<Vec<f64>> =
                (0..rows).map(|_| (0..columns).map(|_| random.random_range(-1.0..1.0)).collect()).collect();
            let chosen = best(&scores);
            let best = by_trying(&scores, 0, &mut (0..columns).collect());
            assert!((sum(&scores, &chosen) - best).abs() < 1e-9, "{scores:?} {chosen:?}");
        }
    }
}
