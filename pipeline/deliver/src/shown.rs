//! Values as outboxes hold them, which are texts for all that SQLite has no exact type for, read again.

use guitong_govern::ColumnKind;
use guitong_schemas::calendar::Civil;
use guitong_schemas::standard::{StandardValue, Step};
use serde::Deserialize;

/// The zone in which every instant is shown.
const ZONE: &str = "+08:00";
const ZONE_MICROS: i64 = 8 * 3_600_000_000;
const MICROS_OF_DAY: i64 = 86_400_000_000;

#[derive(Deserialize)]
struct Shown {
    name: Option<String>,
    handler: Option<String>,
    started: Option<String>,
    ended: Option<String>,
    action: Option<String>,
    opinion: Option<String>,
}

/// The value whose text form this is; `None` where it is none of that kind.
pub(crate) fn value(text: &str, kind: ColumnKind) -> Option<StandardValue<'static>> {
    match kind {
        ColumnKind::Text => Some(StandardValue::Text(text.to_owned().into())),
        ColumnKind::Int => text.parse().ok().map(StandardValue::Int),
        ColumnKind::Date => days(text).map(StandardValue::Date),
        ColumnKind::Time => instant(text).map(StandardValue::Time),
        ColumnKind::Decimal { scale, .. } => decimal(text, scale).map(|unscaled| StandardValue::Decimal { unscaled, scale }),
        ColumnKind::TextList => {
            let items: Vec<String> = serde_json::from_str(text).ok()?;
            Some(StandardValue::TextList(items.into_iter().map(Into::into).collect()))
        }
        ColumnKind::Steps => {
            let steps: Vec<Shown> = serde_json::from_str(text).ok()?;
            steps.into_iter().map(step).collect::<Option<_>>().map(StandardValue::Steps)
        }
    }
}

fn step(shown: Shown) -> Option<Step> {
    let time = |text: Option<String>| text.map_or(Some(None), |text| instant(&text).map(Some));
    let (started, ended) = (time(shown.started)?, time(shown.ended)?);
    let Shown { name, handler, action, opinion, .. } = shown;
    Some(Step { name, handler, started, ended, action, opinion })
}

fn days(text: &str) -> Option<i32> {
    let mut parts = text.rsplitn(3, '-');
    let (day, month) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let year = parts.next()?.parse().ok()?;
    Civil { year, month, day }.days().try_into().ok()
}

fn instant(text: &str) -> Option<i64> {
    let (date, clock) = text.strip_suffix(ZONE)?.split_once('T')?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':').map(|part| part.parse::<i64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    let micros = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction.parse::<i64>().ok()?;
    i64::from(days(date)?).checked_mul(MICROS_OF_DAY)?.checked_add(micros - ZONE_MICROS)
}

fn decimal(text: &str, scale: u32) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() != scale as usize {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let unit = 10_i128.checked_pow(scale)?;
    let (number, rest) = (whole.parse::<i128>().ok()?, digits(fraction)?);
    let rest = if whole.starts_with('-') { -rest } else { rest };
    number.checked_mul(unit)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn returns(kind: ColumnKind, value: StandardValue<'_>) {
        assert_eq!(super::value(&value.to_string(), kind), Some(value.into_owned()));
    }

    proptest! {
        #[test]
        fn values_are_read_as_they_were(
            date in -719_528_i32..2_932_897, time in -62_167_219_200_000_000_i64..253_402_214_400_000_000,
            unscaled in -10_i128.pow(30)..10_i128.pow(30), scale in 0_u32..19, number: i64, name: Option<String>,
        ) {
            returns(ColumnKind::Date, StandardValue::Date(date));
            returns(ColumnKind::Time, StandardValue::Time(time));
            returns(ColumnKind::Time, StandardValue::Time(time / 1_000_000 * 1_000_000));
            returns(ColumnKind::Decimal { precision: 38, scale }, StandardValue::Decimal { unscaled, scale });
            returns(ColumnKind::Int, StandardValue::Int(number));
            let step = Step { name, ended: Some(time), ..Step::default() };
            let steps = vec![step, Step::default()];
            let shown = crate::json::steps(&steps).to_string();
            prop_assert_eq!(value(&shown, ColumnKind::Steps), Some(StandardValue::Steps(steps)));
        }
    }

    #[test]
    fn what_is_none_is_told() {
        let decimal = ColumnKind::Decimal { precision: 9, scale: 2 };
        for (text, kind) in [
            ("2017-09", ColumnKind::Date),
            ("2017-09-22T08:00:00Z", ColumnKind::Time),
            ("2017-09-22T08:00+08:00", ColumnKind::Time),
            ("1.5", decimal),
            ("", decimal),
            ("{}", ColumnKind::TextList),
            ("[1]", ColumnKind::Steps),
        ] {
            assert_eq!(value(text, kind), None, "{text}");
        }
    }
}
