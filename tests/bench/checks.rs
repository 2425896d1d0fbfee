//! Each check of the standard alone, on one core: values as most departments write them, all valid, in nanoseconds of CPU and in allocations.

use guitong_schemas::standard::{Clock, Standard, Zone};

use crate::rounds::{Verdict, median, timed};
use crate::{Failure, allocations};

/// Values of one kind, and how often they are read in one run.
const VALUES: u32 = 1_000;
const ROUNDS: u64 = 200;
/// 2026-11-23T12:00+08:00
const NOW: i64 = 1_795_406_400_000_000;

/// A check, a way in which its values are written, and the values.
struct Case {
    kind: &'static str,
    written: &'static str,
    value: fn(u32) -> String,
}

const fn case(kind: &'static str, written: &'static str, value: fn(u32) -> String) -> Case {
    Case { kind, written, value }
}

const CASES: [Case; 21] = [
    case("citizen_id", "18 characters", |n| completed("citizen_id", format!("45010319900101{}", 996 + n % 4), "0123456789X")),
    case("uscc", "18 characters", |n| {
        completed("uscc", format!("91450103{}", organisation(n)), "0123456789ABCDEFGHJKLMNPQRTUWXY")
    }),
    case("orgcode", "9 characters", organisation),
    case("bizreg15", "15 digits", |n| completed("bizreg15", format!("45010000{n:06}"), "0123456789")),
    case("mobile", "11 digits", |n| format!("160{n:08}")),
    case("bankcard", "16 digits", |n| completed("bankcard", format!("620000{n:09}"), "0123456789")),
    case("division", "6 digits", |n| {
        ["450103", "450202", "450302", "440305"].get(n as usize % 4).copied().unwrap_or_default().to_owned()
    }),
    case("project_code", "24 characters", |n| format!("2403-450103-04-01-{:06}", 100_000 + n)),
    case("date", "2017-09-22", |n| format!("20{:02}-{:02}-{:02}", n % 26, n % 12 + 1, n % 28 + 1)),
    case("date", "20170922", |n| format!("20{:02}{:02}{:02}", n % 26, n % 12 + 1, n % 28 + 1)),
    case("date", "2017/9/2", |n| format!("20{:02}/{}/{}", n % 26, n % 12 + 1, n % 28 + 1)),
    case("date", "2017年9月2日", |n| format!("20{:02}年{}月{}日", n % 26, n % 12 + 1, n % 28 + 1)),
    case("birth_date", "1990-01-01", |n| format!("19{:02}-{:02}-{:02}", 30 + n % 70, n % 12 + 1, n % 28 + 1)),
    case("date_open_end", "2099-12-31", |n| format!("2{}99-12-31", n % 2)),
    case("date_excel_serial", "43000", |n| (40_000 + n).to_string()),
    case("date_epoch_ms", "1506009600000", |n| (1_506_009_600_000 + u64::from(n) * 86_400_000).to_string()),
    case("datetime", "2017-09-22 08:30:05", |n| {
        format!("20{:02}-{:02}-{:02} 08:{:02}:05", n % 26, n % 12 + 1, n % 28 + 1, n % 60)
    }),
    case("datetime", "2017-09-22T08:30:05+08:00", |n| {
        format!("20{:02}-{:02}-{:02}T08:{:02}:05+08:00", n % 26, n % 12 + 1, n % 28 + 1, n % 60)
    }),
    case("text", "20 characters", |n| format!("南宁市青秀区民族大道{n}号金湖广场一层")),
    case("code:gbt3304_ethnic", "a code", |n| format!("{:02}", n % 56 + 1)),
    case("decimal:24,6", "1234.5", |n| format!("{n}.5")),
];

/// A code of the range that nobody is given.
fn organisation(number: u32) -> String {
    completed("orgcode", format!("PDY{number:05}"), "0123456789X")
}

/// The code with the check character that makes it valid.
fn completed(kind: &str, body: String, checks: &str) -> String {
    let clock = Clock::at(NOW, Zone::shanghai());
    let Ok(checker) = Standard::builtin().checker(kind) else { return body };
    let whole = checks.chars().map(|check| format!("{body}{check}"));
    whole.into_iter().find(|code| checker.check(code, &clock).verdict().is_valid()).unwrap_or(body)
}

pub(crate) fn run(runs: usize) -> crate::Outcome {
    let standard = Standard::builtin();
    let clock = Clock::at(NOW, Zone::shanghai());
    println!("{:<20}  {:<26}  ns a check   allocations a value", "check", "written as");
    let mut whole = true;
    for Case { kind, written, value } in CASES {
        let checker = standard.checker(kind)?;
        let values: Vec<String> = (1..=VALUES).map(value).collect();
        if let Some(wrong) = values.iter().find(|value| !checker.check(value, &clock).verdict().is_valid()) {
            return Err(format!("{kind}: {wrong} is not valid").into());
        }
        let mut findings = Vec::with_capacity(16);
        let mut read = || {
            for value in &values {
                findings.clear();
                std::hint::black_box(checker.read(value.as_str(), &clock, &mut findings));
            }
        };
        // What is made at the first use of a zone or table is not a value's.
        read();
        let made = allocations::during(|| {
            read();
            Ok::<(), Failure>(())
        })?;
        whole &= made == 0;
        let mut times: Vec<f64> = (0..runs.max(1))
            .map(|_| {
                let (done, took) = timed(|| {
                    (0..ROUNDS).for_each(|_| read());
                    ROUNDS * u64::from(VALUES)
                });
                took.as_secs_f64() * 1e9 / done as f64
            })
            .collect();
        let middle = median(&mut times);
        println!(
            "{kind:<20}  {:<26}  {:>5.0} ({:.0} to {:.0})  {:.2}",
            written,
            middle,
            times.first().copied().unwrap_or_default(),
            times.last().copied().unwrap_or_default(),
            made as f64 / f64::from(VALUES)
        );
    }
    println!("  bar no allocation for a valid value: {}", if whole { "met" } else { "NOT met" });
    Ok(Verdict::Valid)
}
