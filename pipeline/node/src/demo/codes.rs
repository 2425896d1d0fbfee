//! Synthetic identifiers with right check digits. Written apart from the standard's checks on purpose: the demo's outcome is
//! compared with plain SQL and must not rest on the code that it examines. All numbers lie in ranges that are allotted to nobody.

const USCC_ALPHABET: &[u8; 31] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";

/// A unified social credit code (GB 32100-2015) of category `91` in the user-defined organisation range `PDY`.
pub(super) fn credit_code(division: &str, number: u32) -> String {
    let body = format!("PDY{:05}", number % 100_000);
    let base = format!("91{division}{body}{}", organisation_check(&body));
    let sum: u32 = base.bytes().zip(powers_of_three()).map(|(byte, weight)| weight * symbol(byte)).sum();
    let check = USCC_ALPHABET.get(((31 - sum % 31) % 31) as usize).copied().unwrap_or(b'0');
    format!("{base}{}", check as char)
}

fn powers_of_three() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(1), |weight| Some(weight * 3 % 31))
}

fn symbol(byte: u8) -> u32 {
    USCC_ALPHABET.iter().position(|&letter| letter == byte).unwrap_or(0) as u32
}

/// Check character of an organisation code (GB 11714-1997).
fn organisation_check(body: &str) -> char {
    let value = |c: char| c.to_digit(36).unwrap_or(0);
    let sum: u32 = body.chars().map(value).zip([3, 7, 9, 10, 5, 8, 4, 2]).map(|(value, weight)| value * weight).sum();
    match 11 - sum % 11 {
        10 => 'X',
        11 => '0',
        digit => char::from_digit(digit, 10).unwrap_or('0'),
    }
}

/// The same code with a check character that is wrong.
pub(super) fn with_wrong_check(code: &str) -> String {
    let wrong = if code.ends_with('0') { '1' } else { '0' };
    let kept = code.len().saturating_sub(1);
    format!("{}{wrong}", code.get(..kept).unwrap_or(code))
}

/// A citizen number (GB 11643-1999) with a sequence number from 996 on.
pub(super) fn citizen_number(division: &str, birth: &str, number: u32) -> String {
    let base = format!("{division}{birth}{}", 996 + number % 4);
    let weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let sum: u32 = base.chars().filter_map(|c| c.to_digit(10)).zip(weights).map(|(digit, weight)| digit * weight).sum();
    let check = b"10X98765432".get((sum % 11) as usize).copied().unwrap_or(b'0');
    format!("{base}{}", check as char)
}

/// A mobile number with a prefix that no carrier has.
pub(super) fn mobile(number: u32) -> String {
    format!("160{:08}", number % 100_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_standards_examples() {
        assert_eq!(credit_code("450000", 1).get(2..17), Some("450000PDY00001X"));
        assert_eq!(organisation_check("PDY00001"), 'X');
        assert_eq!(citizen_number("450102", "19900101", 3).len(), 18);
        assert_eq!(citizen_number("450521", "19960503", 1), "450521199605039973");
    }

    #[test]
    fn a_wrong_check_differs_in_the_last_place_only() {
        let code = credit_code("450102", 7);
        let wrong = with_wrong_check(&code);
        assert_eq!(code.get(..17), wrong.get(..17));
        assert_ne!(code, wrong);
    }
}
