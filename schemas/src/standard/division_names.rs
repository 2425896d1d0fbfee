//! Names of provinces, cities and counties, to tell where an address stops naming divisions.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::table::Tables;

/// What a province's name may leave out: 广西 for 广西壮族自治区.
const PROVINCE_SUFFIXES: [&str; 6] = ["壮族自治区", "回族自治区", "维吾尔自治区", "自治区", "省", "市"];

/// The names of a standard's divisions, gathered when they are first asked for: few nodes mask addresses.
pub(crate) struct DivisionNames {
    tables: Arc<Tables>,
    names: OnceLock<HashSet<Box<str>>>,
}

impl DivisionNames {
    pub(crate) fn new(tables: Arc<Tables>) -> Self {
        Self { tables, names: OnceLock::new() }
    }

    /// Whether `name` is that of a division down to the county, current or retired (GB/T 2260).
    pub(crate) fn has(&self, name: &str) -> bool {
        self.gathered().contains(name)
    }

    /// All of them, in order.
    pub(crate) fn sorted(&self) -> BTreeSet<&str> {
        self.gathered().iter().map(|name| &**name).collect()
    }

    fn gathered(&self) -> &HashSet<Box<str>> {
        self.names.get_or_init(|| names(&self.tables))
    }
}

impl fmt::Debug for DivisionNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DivisionNames")
    }
}

fn names(tables: &Tables) -> HashSet<Box<str>> {
    let mut names = HashSet::new();
    for table in ["gbt2260_national", "gbt2260_guangxi", "gbt2260_guangxi_history", "gbt2260_provinces"] {
        let Ok(table) = tables.get(table) else { continue };
        names.extend(table.cells(["name"]).map(|[name]| Box::from(name)));
    }
    if let Ok(provinces) = tables.get("gbt2260_provinces") {
        for [name] in provinces.cells(["name"]) {
            let short = PROVINCE_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
            names.extend(short.map(Box::from));
        }
    }
    names.remove("");
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisions_are_known_by_name() {
        let names = DivisionNames::new(Arc::new(Tables::builtin()));
        for name in ["广西壮族自治区", "广西", "南宁市", "青秀区", "内蒙古", "北京市", "融水苗族自治县"]
        {
            assert!(names.has(name), "{name}");
        }
        for name in ["", "民族大道", "小区", "市区路"] {
            assert!(!names.has(name), "{name}");
        }
    }
}
