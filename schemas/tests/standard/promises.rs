//! What the checks promise: a canonical value of any kind reads as itself, and check characters find the slips of a hand that types.

use guitong_schemas::standard::{Checker, Verdict};
use proptest::sample::{Index, select};

use super::*;

fn checker(kind: &str) -> Checker {
    Standard::builtin().checker(kind).expect(kind)
}

/// The code with the one check character that makes it valid.
fn completed(checker: &Checker, body: &str, checks: &str) -> String {
    let whole: Vec<String> = checks.chars().map(|check| format!("{body}{check}")).collect();
    let mut valid = whole.iter().filter(|code| checker.check(code, &clock()).verdict().is_valid());
    let (code, other) = (valid.next(), valid.next());
    assert!(other.is_none(), "{body} has two check characters");
    code.unwrap_or_else(|| panic!("{body} has no check character")).clone()
}

/// Every code that differs in one character, with its position, what stood there and what stands there.
fn slips(code: &str, alphabet: &str) -> Vec<(usize, char, char, String)> {
    let letters: Vec<char> = code.chars().collect();
    let slip = |(at, held): (usize, &char)| {
        let wrong = alphabet.chars().filter(|wrong| wrong != held).map(|wrong| {
            let mut slipped = letters.clone();
            slipped[at] = wrong;
            (at, *held, wrong, slipped.into_iter().collect::<String>())
        });
        wrong.collect::<Vec<_>>()
    };
    letters.iter().enumerate().flat_map(slip).collect()
}

/// Every code with two neighbours in each other's place, with their position.
fn swaps(code: &str) -> Vec<(usize, String)> {
    let letters: Vec<char> = code.chars().collect();
    let differ = (1..letters.len()).filter(|at| letters[at - 1] != letters[*at]);
    let swapped = differ.map(|at| {
        let mut swapped = letters.clone();
        swapped.swap(at - 1, at);
        (at - 1, swapped.into_iter().collect::<String>())
    });
    swapped.collect()
}

const DIGITS: &str = "0123456789";
const CREDIT: &str = "0123456789ABCDEFGHJKLMNPQRTUWXY";
const LETTERS: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

fn config() -> ProptestConfig {
    ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// GB 32100, weights 3^i mod 31, a prime with as many letters: every wrong letter and every swap of neighbours.
    #[test]
    fn a_credit_code_finds_every_slip_and_every_swap(head in select(vec!["11", "51", "91", "93", "A1", "Y1"]), rest in "[0-9]{6}[0-9A-HJ-NPQRTUWXY]{9}") {
        let checker = checker("uscc");
        let code = completed(&checker, &format!("{head}{rest}"), CREDIT);
        for (.., slipped) in slips(&code, CREDIT) {
            prop_assert_eq!(checker.check(&slipped, &clock()).verdict(), Verdict::Error, "{} is {} with a slip", slipped, code);
        }
        for (_, swapped) in swaps(&code) {
            prop_assert_eq!(checker.check(&swapped, &clock()).verdict(), Verdict::Error, "{} is {} with a swap", swapped, code);
        }
    }

    /// GB 11643, ISO 7064 MOD 11-2: every wrong digit and every swap of neighbours.
    #[test]
    fn a_citizen_number_finds_every_slip_and_every_swap(birth in "19[3-9][0-9](0[1-9]|1[0-2])(0[1-9]|1[0-9]|2[0-8])", sequence in 996..=999u32) {
        let checker = checker("citizen_id");
        let code = citizen_number("450103", &birth, &sequence.to_string());
        prop_assert!(checker.check(&code, &clock()).verdict().is_valid(), "{}", code);
        for (.., slipped) in slips(&code, "0123456789X") {
            prop_assert_eq!(checker.check(&slipped, &clock()).verdict(), Verdict::Error, "{} is {} with a slip", slipped, code);
        }
        for (_, swapped) in swaps(&code) {
            prop_assert_eq!(checker.check(&swapped, &clock()).verdict(), Verdict::Error, "{} is {} with a swap", swapped, code);
        }
    }

    /// GB 11714, MOD 11 over letters worth up to 35: in the eight characters before the check, every slip and swap but between characters
    /// whose values differ by a multiple of 11 (0 B M X, 1 C N Y, …), so between digits every one; in the check character every slip.
    #[test]
    fn an_organisation_code_finds_every_slip_between_digits(body in "[0-9A-Z]{8}") {
        let checker = checker("orgcode");
        let code = completed(&checker, &body, "0123456789X");
        let alike = |one: char, other: char| {
            let value = |letter: char| letter.to_digit(36).map(|value| value % 11);
            value(one) == value(other)
        };
        for (at, held, wrong, slipped) in slips(&code, LETTERS) {
            let missed = at < 8 && alike(held, wrong);
            prop_assert_eq!(checker.check(&slipped, &clock()).verdict().is_valid(), missed, "{} is {} with a slip", slipped, code);
        }
        let letters: Vec<char> = code.chars().collect();
        for (at, swapped) in swaps(&code).into_iter().filter(|(at, _)| *at < 7) {
            let missed = alike(letters[at], letters[at + 1]);
            prop_assert_eq!(checker.check(&swapped, &clock()).verdict().is_valid(), missed, "{} is {} with a swap", swapped, code);
        }
    }

    /// GS 15, ISO 7064 MOD 11,10: every wrong digit; swaps of neighbours but ten of the 450 that the running remainder leaves possible, each
    /// of two digits that follow each other, and of the last digit with the check digit but one.
    #[test]
    fn a_registration_number_finds_every_slip_and_nearly_every_swap(body in "[0-9]{14}") {
        let checker = checker("bizreg15");
        let code = completed(&checker, &body, DIGITS);
        for (.., slipped) in slips(&code, DIGITS) {
            prop_assert_eq!(checker.check(&slipped, &clock()).verdict(), Verdict::Error, "{} is {} with a slip", slipped, code);
        }
        /// Remainder before the two digits, and the digits.
        const MISSED: [(u32, u32, u32); 10] =
            [(1, 4, 5), (2, 3, 4), (3, 2, 3), (4, 1, 2), (5, 0, 1), (6, 0, 9), (7, 8, 9), (8, 7, 8), (9, 6, 7), (10, 5, 6)];
        let digits: Vec<u32> = code.chars().filter_map(|digit| digit.to_digit(10)).collect();
        for (at, swapped) in swaps(&code) {
            let before = digits[..at].iter().fold(10, |state, digit| match (state + digit) % 10 {
                0 => 20 % 11,
                sum => sum * 2 % 11,
            });
            let pair = (before, digits[at].min(digits[at + 1]), digits[at].max(digits[at + 1]));
            let missed = if at == 13 { pair == (5, 0, 1) } else { MISSED.contains(&pair) };
            prop_assert_eq!(checker.check(&swapped, &clock()).verdict().is_valid(), missed, "{} is {} with a swap", swapped, code);
        }
    }

    /// ISO/IEC 7812-1, Luhn: every wrong digit, and every swap of neighbours but 09 for 90.
    #[test]
    fn a_card_number_finds_every_slip_and_every_swap_but_of_09(body in "620000[0-9]{9,12}") {
        let checker = checker("bankcard");
        let code = completed(&checker, &body, DIGITS);
        for (.., slipped) in slips(&code, DIGITS) {
            prop_assert_eq!(checker.check(&slipped, &clock()).verdict(), Verdict::Error, "{} is {} with a slip", slipped, code);
        }
        for (at, swapped) in swaps(&code) {
            let missed = matches!(&code[at..at + 2], "09" | "90");
            prop_assert_eq!(checker.check(&swapped, &clock()).verdict().is_valid(), missed, "{} is {} with a swap", swapped, code);
        }
    }
}

/// Kinds whose canonical text is one of another kind.
fn kind_of_canonical(kind: &str) -> &str {
    match kind {
        "date_excel_serial" | "date_epoch_ms" => "date",
        other => other,
    }
}

/// Inputs of the examples by kind.
fn examples() -> Vec<(String, String)> {
    let rows = include_str!("../data/standard_vectors.csv").lines().skip(1);
    let cells = rows.filter_map(|row| {
        let mut cells = row.split(',');
        let (kind, input) = (cells.next()?, cells.next()?);
        Some((kind.to_owned(), serde_json::from_str(&format!("\"{input}\"")).ok()?))
    });
    cells.collect()
}

/// An example with some of its characters changed, as hands and conversions change them.
fn damaged(text: &str, damages: &[(u8, Index, char)]) -> String {
    let mut letters: Vec<char> = text.chars().take(200).collect();
    for (what, at, letter) in damages {
        let at = at.index(letters.len() + 1);
        match what {
            0 => letters.insert(at, *letter),
            1 if at < letters.len() => drop(letters.remove(at)),
            2 if at < letters.len() => letters[at] = *letter,
            3 if at + 1 < letters.len() => letters.swap(at, at + 1),
            // Full width, as an input method leaves it.
            4 if at < letters.len() => {
                if let Some(wide) = char::from_u32(u32::from(letters[at]) + 0xFEE0).filter(|_| letters[at].is_ascii_graphic()) {
                    letters[at] = wide;
                }
            }
            _ => {}
        }
    }
    letters.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..config() })]

    /// A canonical value of any kind reads as itself, without an error and without another repair.
    #[test]
    fn canonical_values_of_every_kind_are_fixed_points(
        (kind, text) in select(examples()),
        damages in proptest::collection::vec((0..5u8, any::<Index>(), select("0123456789X年月日 -/.\u{3000}\u{200B}ＡＺ·名长T:+".chars().collect::<Vec<_>>())), 0..4),
    ) {
        let input = damaged(&text, &damages);
        let checked = checker(&kind).check(&input, &clock());
        let Some(canonical) = checked.normalised else { return Ok(()) };
        let again = checker(kind_of_canonical(&kind)).check(&canonical, &clock());
        if kind_of_canonical(&kind) != kind && again.verdict() == Verdict::Empty {
            // A declared number of days may come to a date that as a text says "no value".
            return Ok(());
        }
        prop_assert_eq!(again.normalised.as_deref(), Some(canonical.as_str()), "{} {:?}: {:?}", kind, input, again.findings);
        prop_assert!(again.findings.iter().all(|finding| finding.level == Level::Warning), "{} {:?} repairs {:?}: {:?}", kind, input, canonical, again.findings);
    }
}
