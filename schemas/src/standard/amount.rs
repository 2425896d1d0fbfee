//! Numbers and amounts: units, thousands separators, Chinese capitals.

use super::date::forms::numeral;
use super::field::EntityField;
use super::finding::{Remarks, Rule};
use super::identifier::clean::fold;
use crate::contract::mapping::Unit;

/// A decimal number: `unscaled` / 10^`scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) unscaled: i128,
    pub(crate) scale: u32,
}

/// A number as written, with the unit that the text itself names.
struct Written {
    number: Number,
    unit: Option<Unit>,
    repaired: bool,
}

/// Reads an amount's text into the standard's unit (万元) and the field's scale. A unit in the text stands above the declared one.
pub(crate) fn read(text: &str, unit: Option<Unit>, scale: u32, precision: u32, remarks: &mut Remarks<'_>) -> Result<i128, Rule> {
    let written = written(text)?;
    if written.repaired {
        remarks.note(Rule::NumberRepaired);
    }
    rescale(written.number, written.unit.or(unit), scale, precision, remarks)
}

/// Turns a number of this unit into 万元 at the field's scale, rounding half away from zero.
pub(crate) fn rescale(
    number: Number,
    unit: Option<Unit>,
    scale: u32,
    precision: u32,
    remarks: &mut Remarks<'_>,
) -> Result<i128, Rule> {
    let (mut unscaled, mut held) = (number.unscaled, number.scale);
    match unit {
        Some(Unit::Yuan) => held = held.checked_add(4).ok_or(Rule::NumberRange)?,
        Some(Unit::HundredMillionYuan) => unscaled = unscaled.checked_mul(10_000).ok_or(Rule::NumberRange)?,
        Some(Unit::TenThousandYuan) | None => {}
    }
    if held <= scale {
        let factor = 10i128.checked_pow(scale - held).ok_or(Rule::NumberRange)?;
        unscaled = unscaled.checked_mul(factor).ok_or(Rule::NumberRange)?;
    } else {
        let divisor = 10i128.checked_pow(held - scale).ok_or(Rule::NumberRange)?;
        let (whole, rest) = (unscaled / divisor, unscaled % divisor);
        if rest != 0 {
            remarks.note(Rule::NumberRounded);
        }
        unscaled = if rest.abs() >= divisor - rest.abs() { whole + unscaled.signum() } else { whole };
    }
    let limit = 10u128.checked_pow(precision).ok_or(Rule::NumberRange)?;
    if unscaled.unsigned_abs() < limit { Ok(unscaled) } else { Err(Rule::NumberRange) }
}

/// Reads a whole number; a fraction of zeros, as spreadsheets write it, is dropped.
pub(crate) fn integer(text: &str, remarks: &mut Remarks<'_>) -> Result<i64, Rule> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let written = written(text)?;
    let unit = 10i128.checked_pow(written.number.scale).ok_or(Rule::NumberRange)?;
    if written.unit.is_some() || written.number.unscaled % unit != 0 {
        return Err(Rule::NumberForm);
    }
    remarks.note(Rule::NumberRepaired);
    i64::try_from(written.number.unscaled / unit).map_err(|_| Rule::NumberRange)
}

fn written(text: &str) -> Result<Written, Rule> {
    if let Some(number) = decimal(text) {
        return Ok(Written { number, unit: None, repaired: false });
    }
    let folded = fold(text)?;
    let bare = folded.strip_prefix("人民币").unwrap_or(&folded).trim_start_matches([' ', '¥', '￥', ':']);
    if let Some(cents) = capitals(bare) {
        return Ok(Written { number: Number { unscaled: cents, scale: 2 }, unit: Some(Unit::Yuan), repaired: true });
    }
    let (digits, unit) = [
        ("亿元", Unit::HundredMillionYuan),
        ("万元", Unit::TenThousandYuan),
        ("亿", Unit::HundredMillionYuan),
        ("万", Unit::TenThousandYuan),
        ("元", Unit::Yuan),
    ]
    .iter()
    .find_map(|(word, unit)| Some((bare.strip_suffix(word)?, Some(*unit))))
    .unwrap_or((bare, None));
    let digits = digits.trim_end_matches(' ');
    let number = decimal(digits).or_else(|| decimal(&without_groups(digits)?)).ok_or(Rule::NumberForm)?;
    Ok(Written { number, unit, repaired: true })
}

/// `-12.50`: sign, digits, and a fraction after a point.
fn decimal(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let mut unscaled: i128 = 0;
    let mut places: Option<u32> = None;
    let mut count = 0u32;
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                unscaled = unscaled.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
                count += 1;
                places = places.map(|places| places + 1);
            }
            b'.' if places.is_none() && count > 0 => places = Some(0),
            _ => return None,
        }
    }
    if count == 0 || places == Some(0) {
        return None;
    }
    Some(Number { unscaled: if negative { -unscaled } else { unscaled }, scale: places.unwrap_or(0) })
}

/// The digits without thousands separators, where every group but the first has three.
fn without_groups(text: &str) -> Option<String> {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut groups = whole.split(',');
    let first = groups.next()?;
    let lead = first.trim_start_matches(['-', '+']).len();
    let mut joined = first.to_owned();
    for group in groups {
        if group.len() != 3 || !(1..=3).contains(&lead) {
            return None;
        }
        joined.push_str(group);
    }
    if let Some(fraction) = fraction {
        joined.push('.');
        joined.push_str(fraction);
    }
    Some(joined)
}

/// An amount in Chinese capitals (`伍佰万元整`, `叁仟元零伍分`) in 分. It ends with 元, 圆, 整, 角 or 分.
fn capitals(text: &str) -> Option<i128> {
    if !text.ends_with(['元', '圆', '整', '正', '角', '分']) {
        return None;
    }
    let text = text.trim_end_matches(['整', '正']);
    let (yuan, rest) = match text.split_once(['元', '圆']) {
        Some((yuan, rest)) => (whole_capitals(yuan)?, rest),
        None => (0, text),
    };
    let mut cents = yuan.checked_mul(100)?;
    let mut digit = None;
    for letter in rest.chars() {
        match letter {
            '角' => cents += digit.take()? * 10,
            '分' => cents += digit.take()?,
            '零' if digit.is_none() => {}
            _ => digit = Some(capital(letter)?),
        }
    }
    digit.is_none().then_some(cents)
}

fn capital(letter: char) -> Option<i128> {
    let number = match letter {
        '壹' => 1,
        '贰' => 2,
        '叁' => 3,
        '肆' => 4,
        '伍' => 5,
        '陆' => 6,
        '柒' => 7,
        '捌' => 8,
        '玖' => 9,
        _ => i128::from(numeral(letter)?),
    };
    Some(number)
}

/// Whole yuan in capitals: sections of up to 仟, in 万 and 亿.
fn whole_capitals(text: &str) -> Option<i128> {
    for (unit, value) in [(&['亿', '億'], 100_000_000), (&['万', '萬'], 10_000)] {
        if let Some((high, low)) = text.rsplit_once(unit) {
            let low = if low.is_empty() { 0 } else { whole_capitals(low)? };
            return whole_capitals(high)?.checked_mul(value)?.checked_add(low);
        }
    }
    let mut total = 0;
    let mut digit = None;
    for letter in text.chars() {
        let unit = match letter {
            '拾' | '十' => 10,
            '佰' | '百' => 100,
            '仟' | '千' => 1000,
            // Two digits side by side are no amount; a zero only fills a gap.
            _ if digit.is_some_and(|held| held != 0) => return None,
            _ => {
                digit = Some(capital(letter)?);
                continue;
            }
        };
        // 拾元 is 10.
        total += digit.take().filter(|held| *held != 0).unwrap_or(1) * unit;
    }
    if text.is_empty() { None } else { Some(total + digit.unwrap_or(0)) }
}

impl EntityField {
    /// Whether a value, given in the field's unit at this scale, lies within the field's range.
    pub(crate) fn in_range(&self, unscaled: i128, scale: u32) -> Result<(), Rule> {
        let unit = 10i128.checked_pow(scale).ok_or(Rule::NumberRange)?;
        let below = self.range.0.is_some_and(|least| unscaled < i128::from(least).saturating_mul(unit));
        let above = self.range.1.is_some_and(|most| unscaled > i128::from(most).saturating_mul(unit));
        if below || above { Err(Rule::NumberRange) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_wan(text: &str, unit: Option<Unit>) -> Result<i128, Rule> {
        let mut findings = Vec::new();
        read(text, unit, 6, 24, &mut Remarks { field: 0, findings: &mut findings })
    }

    #[test]
    fn units_and_separators_give_one_number() {
        for (text, unit, expected) in [
            ("500", None, Ok(500_000_000)),
            ("5,000,000.00", Some(Unit::Yuan), Ok(500_000_000)),
            ("5000000元", None, Ok(500_000_000)),
            ("0.05亿元", Some(Unit::Yuan), Ok(500_000_000)),
            ("0.05", Some(Unit::HundredMillionYuan), Ok(500_000_000)),
            ("５００万元", Some(Unit::Yuan), Ok(500_000_000)),
            ("人民币伍佰万元整", None, Ok(500_000_000)),
            ("叁仟元零伍分", None, Ok(300_005)),
            ("壹万亿元", None, Ok(100_000_000_000_000)),
            ("壹亿零贰万元", None, Ok(10_002_000_000)),
            ("拾元伍角", None, Ok(1050)),
            ("-1", None, Ok(-1_000_000)),
            ("0.0000015", None, Ok(2)),
            ("0.0000014", None, Ok(1)),
            ("5,00", None, Err(Rule::NumberForm)),
            ("12%", None, Err(Rule::NumberForm)),
            ("1.6E+10", None, Err(Rule::NumberForm)),
            ("伍百伍佰", None, Err(Rule::NumberForm)),
            ("1.", None, Err(Rule::NumberForm)),
            ("99999999999999999999", None, Err(Rule::NumberRange)),
        ] {
            assert_eq!(in_wan(text, unit), expected, "{text}");
        }
    }

    #[test]
    fn a_whole_number_may_end_in_zeros_but_not_in_a_fraction() {
        let mut findings = Vec::new();
        let mut remarks = Remarks { field: 0, findings: &mut findings };
        assert_eq!(integer("20.00", &mut remarks), Ok(20));
        assert_eq!(integer("1,000", &mut remarks), Ok(1000));
        assert_eq!(integer("20.5", &mut remarks), Err(Rule::NumberForm));
        assert_eq!(integer("99999999999999999999", &mut remarks), Err(Rule::NumberRange));
    }
}
