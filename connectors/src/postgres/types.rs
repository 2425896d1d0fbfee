//! Column types from what a Relation message gives: type oid and type modifier, with the catalogue's word on types that users
//! made.

use std::collections::HashMap;

use guitong_schemas::table::ColumnType;

/// What the catalogue says of a type that is not built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TypeFacts {
    Enum {
        labels: Vec<String>,
    },
    /// The type under it and the modifier that the domain gives it.
    Domain {
        base: u32,
        modifier: i32,
    },
    Array {
        element: u32,
    },
    /// Another type, by name: extension types are known by it.
    Named(String),
}

/// Types seen so far, by oid.
#[derive(Debug, Default)]
pub(crate) struct Types(HashMap<u32, TypeFacts>);

impl Types {
    pub(crate) fn learn(&mut self, oid: u32, facts: TypeFacts) {
        self.0.insert(oid, facts);
    }

    /// Forgets these types and what they stand on: they may have changed.
    pub(crate) fn forget(&mut self, oids: &[u32]) {
        for &oid in oids {
            let mut next = Some(oid);
            while let Some(facts) = next.and_then(|oid| self.0.remove(&oid)) {
                next = match facts {
                    TypeFacts::Domain { base, .. } => Some(base),
                    TypeFacts::Array { element } => Some(element),
                    TypeFacts::Enum { .. } | TypeFacts::Named(_) => None,
                };
            }
        }
    }

    /// Types that `oid` needs and that are not known: itself, or what a domain or array stands on.
    pub(crate) fn missing(&self, oid: u32) -> Option<u32> {
        // Domains over domains and arrays of domains nest; a catalogue without loops ends this soon.
        let mut oid = oid;
        for _ in 0..32 {
            if builtin(oid, -1).is_some() {
                return None;
            }
            match self.0.get(&oid) {
                None => return Some(oid),
                Some(TypeFacts::Domain { base, .. }) => oid = *base,
                Some(TypeFacts::Array { element }) => oid = *element,
                Some(TypeFacts::Enum { .. } | TypeFacts::Named(_)) => return None,
            }
        }
        None
    }

    /// The column type; what nobody knows is [`ColumnType::Other`], and so is an array of it.
    pub(crate) fn resolve(&self, oid: u32, modifier: i32) -> ColumnType {
        self.resolve_within(oid, modifier, 32)
    }

    fn resolve_within(&self, oid: u32, modifier: i32, depth: u8) -> ColumnType {
        if let Some(known) = builtin(oid, modifier) {
            return known;
        }
        let Some(depth) = depth.checked_sub(1) else { return ColumnType::Other };
        match self.0.get(&oid) {
            Some(TypeFacts::Enum { labels }) => ColumnType::Enum { labels: labels.clone() },
            Some(TypeFacts::Domain { base, modifier }) => self.resolve_within(*base, *modifier, depth),
            Some(TypeFacts::Array { element }) => match self.resolve_within(*element, modifier, depth) {
                ColumnType::Other => ColumnType::Other,
                element => ColumnType::Array(Box::new(element)),
            },
            Some(TypeFacts::Named(name)) => match name.as_str() {
                "hstore" => ColumnType::Hstore,
                "ltree" => ColumnType::Ltree,
                "citext" => ColumnType::Text,
                _ => ColumnType::Other,
            },
            None => ColumnType::Other,
        }
    }
}

/// Types with fixed oids (PostgreSQL sources, `pg_type.dat`).
fn builtin(oid: u32, modifier: i32) -> Option<ColumnType> {
    Some(match oid {
        16 => ColumnType::Bool,
        17 => ColumnType::Bytes,
        20 => ColumnType::Int64,
        21 => ColumnType::Int16,
        23 => ColumnType::Int32,
        26 => ColumnType::UInt32,
        114 | 3802 => ColumnType::Json,
        142 => ColumnType::Xml,
        600 => ColumnType::Point,
        700 => ColumnType::Float32,
        701 => ColumnType::Float64,
        790 => ColumnType::Money,
        1082 => ColumnType::Date,
        1083 => ColumnType::Time { precision: fraction(modifier) },
        1114 => ColumnType::Timestamp { precision: fraction(modifier) },
        1184 => ColumnType::ZonedTimestamp { precision: fraction(modifier) },
        1186 => ColumnType::Interval,
        1266 => ColumnType::ZonedTime,
        1560 => ColumnType::Bit { length: u32::try_from(modifier).unwrap_or(1), varying: false },
        1562 => ColumnType::Bit { length: u32::try_from(modifier).unwrap_or(i32::MAX.cast_unsigned()), varying: true },
        1700 => decimal(modifier),
        2950 => ColumnType::Uuid,
        3614 => ColumnType::TsVector,
        // "char", name, text, bpchar, varchar: text as it stands. So are cidr, macaddr, macaddr8, inet and the ranges.
        18 | 19 | 25 | 1042 | 1043 | 650 | 829 | 774 | 869 | 3904 | 3906 | 3908 | 3910 | 3912 | 3926 => ColumnType::Text,
        _ => return None,
    })
}

/// Digits of the second; without a modifier the server keeps six.
fn fraction(modifier: i32) -> u8 {
    u8::try_from(modifier).ok().filter(|&digits| digits <= 6).unwrap_or(6)
}

/// `numeric(precision, scale)`: the modifier is `precision << 16 | scale`, plus 4, with the scale in 11 bits of two's complement.
fn decimal(modifier: i32) -> ColumnType {
    let Some(packed) = modifier.checked_sub(4).filter(|&packed| packed >= 0) else { return ColumnType::VariableDecimal };
    let precision = u16::try_from(packed >> 16 & 0xFFFF).unwrap_or(u16::MAX);
    let scale = ((packed & 0x7FF) ^ 0x400) - 0x400;
    match u16::try_from(scale) {
        Ok(scale) => ColumnType::Decimal { precision, scale },
        // A negative scale rounds to the left of the point: a whole number with that many digits more.
        Err(_) => ColumnType::Decimal {
            precision: precision.saturating_add(u16::try_from(scale.unsigned_abs()).unwrap_or(u16::MAX)),
            scale: 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(precision: i32, scale: i32) -> i32 {
        (precision << 16 | (scale & 0x7FF)) + 4
    }

    #[test]
    fn modifiers_give_precision_and_scale() {
        let types = Types::default();
        for (oid, modifier, wanted) in [
            (1700, packed(18, 2), ColumnType::Decimal { precision: 18, scale: 2 }),
            (1700, packed(5, -3), ColumnType::Decimal { precision: 8, scale: 0 }),
            (1700, packed(3, 5), ColumnType::Decimal { precision: 3, scale: 5 }),
            (1700, -1, ColumnType::VariableDecimal),
            (1114, 3, ColumnType::Timestamp { precision: 3 }),
            (1114, -1, ColumnType::Timestamp { precision: 6 }),
            (1560, 1, ColumnType::Bit { length: 1, varying: false }),
            (1562, -1, ColumnType::Bit { length: 2_147_483_647, varying: true }),
            (1042, 24, ColumnType::Text),
            (869, -1, ColumnType::Text),
            (999_999, -1, ColumnType::Other),
        ] {
            assert_eq!(types.resolve(oid, modifier), wanted, "{oid} {modifier}");
        }
    }

    #[test]
    fn domains_and_arrays_are_followed() {
        let mut types = Types::default();
        assert_eq!(types.missing(70_001), Some(70_001));
        types.learn(70_001, TypeFacts::Array { element: 70_002 });
        assert_eq!(types.missing(70_001), Some(70_002));
        types.learn(70_002, TypeFacts::Domain { base: 1700, modifier: packed(10, 2) });
        assert_eq!(types.missing(70_001), None);
        let element = ColumnType::Decimal { precision: 10, scale: 2 };
        assert_eq!(types.resolve(70_001, -1), ColumnType::Array(Box::new(element)));
        types.learn(70_003, TypeFacts::Domain { base: 70_003, modifier: -1 });
        assert_eq!(types.missing(70_003), None);
        assert_eq!(types.resolve(70_003, -1), ColumnType::Other, "a loop ends");
        types.learn(70_004, TypeFacts::Array { element: 70_005 });
        types.learn(70_005, TypeFacts::Named("box".into()));
        assert_eq!(types.resolve(70_004, -1), ColumnType::Other, "an array of what nobody knows is one text");
    }
}
