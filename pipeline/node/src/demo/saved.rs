//! What nobody had to type again: every record and field that a subscriber holds and another department first entered.

use guitong_schemas::contract::Directory;

use super::compare::Comparison;

/// Entries and fields that one department has from another.
#[derive(Debug, Clone)]
pub struct Saved {
    pub from: String,
    pub to: String,
    pub records: u64,
    pub fields: u64,
}

/// By pair of departments, the largest first. A subscription delivers each key of its resource once, so its table's rows and filled cells are
/// the distinct (subscriber, key) and (subscriber, key, field); what a department has of its own systems does not count.
pub(super) fn count(directory: &Directory, comparisons: &[Comparison]) -> Vec<Saved> {
    let mut pairs: Vec<Saved> = Vec::new();
    for comparison in comparisons {
        let Some(subscription) = directory.subscriptions.get(comparison.subscription.as_str()) else { continue };
        let Some(resource) = directory.resources.get(&subscription.resource) else { continue };
        let Some(system) = directory.systems.get(&resource.system) else { continue };
        if system.department == subscription.subscriber {
            continue;
        }
        let title = |name| directory.departments.get(name).map_or_else(String::new, |department| department.title.clone());
        let (from, to) = (title(&system.department), title(&subscription.subscriber));
        match pairs.iter_mut().find(|pair| pair.from == from && pair.to == to) {
            Some(pair) => {
                pair.records += comparison.held;
                pair.fields += comparison.cells;
            }
            None => pairs.push(Saved { from, to, records: comparison.held, fields: comparison.cells }),
        }
    }
    pairs.sort_by_key(|pair| std::cmp::Reverse(pair.fields));
    pairs
}
