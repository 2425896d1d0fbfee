//! Spellings beside those of the examples: every form of a date, serial numbers, open ends, mixed widths, characters that GB 18030 and earlier
//! conversions leave behind.

use guitong_schemas::standard::Verdict;

use super::*;

/// Each input with what it becomes (empty: nothing) and the rules that it meets.
fn holds(kind: &str, cases: &[(&str, &str, &[&str])]) {
    let checker = Standard::builtin().checker(kind).expect(kind);
    for (input, expected, rules) in cases {
        let checked = checker.check(input, &clock());
        let found: Vec<&str> = checked.findings.iter().map(|finding| finding.rule.code()).collect();
        assert_eq!(
            (checked.normalised.as_deref().unwrap_or_default(), found.as_slice()),
            (*expected, *rules),
            "{kind} {input:?}"
        );
    }
}

/// Inputs that come to one text without a finding.
fn all_become(kind: &str, expected: &str, inputs: &[&str]) {
    holds(kind, &inputs.iter().map(|input| (*input, expected, &[][..])).collect::<Vec<_>>());
}

/// Inputs that one rule refuses.
fn all_break(kind: &str, rule: &str, inputs: &[&str]) {
    holds(kind, &inputs.iter().map(|input| (*input, "", std::slice::from_ref(&rule))).collect::<Vec<_>>());
}

#[test]
fn a_date_is_read_in_every_form_that_can_mean_only_one() {
    let forms = [
        "20170902",
        "2017-09-02",
        "2017-9-2",
        "2017/9/2",
        "2017.09.2",
        "2017\u{2013}09\u{2013}02",
        "2017年9月2日",
        "2017 年 9 月 02 日",
        "2017年9月2号",
        "二〇一七年九月二日",
        "二○一七年九月二日",
        "二零一七年九月二号",
        "２０１７年９月２日",
        "２０１７．９．２",
        "\u{3000}2017-09-02\u{3000}",
        "\u{FEFF}2017-09-02",
        "'2017-09-02",
        "2017年9月2日（星期六）",
        "2017-09-02 周六",
        "2017-09-02 00:00:00",
        "2017-09-02 00:00:00.0",
        "2017-09-01T16:00:00Z",
        "2017-09-02T00:00:00+08:00",
        "2017-09-01T12:30:00-03:30",
        "2017-09-01T24:00:00",
    ];
    all_become("date", "2017-09-02", &forms);
    all_become("date", "2000-02-29", &["2000-02-29", "二〇〇〇年二月二十九日"]);
    all_become("date", "2016-12-31", &["二〇一六年十二月三十一日", "2016年12月31日"]);
}

#[test]
fn a_date_that_could_mean_several_or_none_is_refused() {
    let unclear = [
        "17-09-22",
        "9/22/2017",
        "03/04/2017",
        "2017-09",
        "2017年9月",
        "2017",
        "201709",
        "2017/09-22",
        "2017年09月22",
        "106年",
        "民国106年",
        "昭和60年",
        "农历二〇一七年八月初三",
        "2017-265",
        "2017-W38-5",
        "43000",
        "1506009600000",
        "2017٠922",
        "二九一七九月二日",
    ];
    all_break("date", "date.form", &unclear);
    let missing = ["1900-02-29", "2100-02-29", "2017-02-30", "2017-13-01", "2017-00-10", "20170931", "二〇一七年二月二十九日"];
    all_break("date", "date.no_such_day", &missing);
    all_break("date", "date.open_end", &["长期", "永久"]);
    all_become(
        "date",
        "",
        &["0000-00-00", "0001-01-01", "1753-01-01", "1899-12-30", "1900-01-01", "19000101", "00000000", "暂无", "／"],
    );
    holds("date", &[("2017年9月22日 星期六", "", &["date.weekday"])]);
    // A text longer than any date is not looked at.
    assert_eq!(Standard::builtin().checker("date").expect("date").check(&"2".repeat(65), &clock()).verdict(), Verdict::Error);
}

#[test]
fn serial_numbers_and_epochs_are_dates_only_where_they_are_declared() {
    holds(
        "date_excel_serial",
        &[
            ("1", "1900-01-01", &[]),
            ("59", "1900-02-28", &[]),
            // The day that spreadsheets invented.
            ("60", "", &["date.no_such_day"]),
            ("61", "1900-03-01", &[]),
            ("43000", "2017-09-22", &[]),
            ("43000.0", "2017-09-22", &[]),
            ("43000.75", "2017-09-22", &["date.from_time"]),
            ("2958465", "9999-12-31", &[]),
            ("2958466", "", &["date.no_such_day"]),
            ("-1", "", &["date.no_such_day"]),
            ("0", "", &[]),
        ],
    );
    // Midnights of summer time, of local mean time, and of today.
    let epochs: [(&str, &str, &[&str]); 3] =
        [("581094000000", "1988-06-01", &[]), ("-2209017943000", "1900-01-01", &[]), ("1506009600000", "2017-09-22", &[])];
    holds("date_epoch_ms", &epochs);
    all_break("date_epoch_ms", "date.form", &["2017-09-22", "x"]);
}

#[test]
fn without_end_is_one_date_where_a_field_may_be_without_end() {
    let forms = ["9999-12-31", "9999/12/31", "2099-12-31", "2099/12/31", "20991231", "2099年12月31日", "长期", "永久", "--"];
    all_become("date_open_end", "9999-12-31", &forms);
    all_become("date_open_end", "2017-09-22", &["2017-09-22", "2017年9月22日"]);
    all_break("date_open_end", "date.form", &["无固定期限", "长期有效至"]);
}

#[test]
fn a_time_is_read_with_its_offset_or_taken_as_local() {
    let (assumed, minutes): (&[&str], &[&str]) = (&["time.zone_assumed"], &["time.zone_assumed", "time.minutes"]);
    holds(
        "datetime",
        &[
            ("2017-09-22T08:30:05+08:00", "2017-09-22T08:30:05+08:00", &[]),
            ("2017-09-22T08:30:05+0800", "2017-09-22T08:30:05+08:00", &[]),
            ("2017-09-22T08:30:05+08", "2017-09-22T08:30:05+08:00", &[]),
            ("2017-09-22T00:30:05Z", "2017-09-22T08:30:05+08:00", &[]),
            ("2017-09-22T08:30:05-03:30", "2017-09-22T20:00:05+08:00", &[]),
            ("20170922083005", "2017-09-22T08:30:05+08:00", assumed),
            ("20170922083005123", "2017-09-22T08:30:05.123000+08:00", assumed),
            ("2017/9/22 8:30:05", "2017-09-22T08:30:05+08:00", assumed),
            ("2017/9/22 上午 8:30:05", "2017-09-22T08:30:05+08:00", assumed),
            ("2017/9/22 下午 1:30", "2017-09-22T13:30:00+08:00", minutes),
            ("2017/9/22 上午 12:00:00", "2017-09-22T00:00:00+08:00", assumed),
            ("2017/9/22 下午 12:00:00", "2017-09-22T12:00:00+08:00", assumed),
            ("2017年9月22日9时30分5秒", "2017-09-22T09:30:05+08:00", assumed),
            ("２０１７－０９－２２ ０８：３０：０５", "2017-09-22T08:30:05+08:00", assumed),
            ("2017-09-22 24:00:00", "2017-09-23T00:00:00+08:00", assumed),
            ("2017-09-22 08:30:05.1234567", "2017-09-22T08:30:05.123456+08:00", assumed),
        ],
    );
    let out_of_range = [
        "2017/9/22 下午 13:30",
        "2016-12-31T23:59:60Z",
        "2017-09-22 24:00:01",
        "2017-09-22 08:60:00",
        "2017-09-22T08:30:05+15:00",
    ];
    all_break("datetime", "time.range", &out_of_range);
    all_break("datetime", "time.form", &["2017-09-22", "2017-09-22 08:30:05 CST", "2017-09-22 8"]);
}

#[test]
fn widths_are_mixed_and_look_alikes_are_not_letters() {
    let repaired: &[&str] = &["identifier.repaired"];
    holds(
        "uscc",
        &[
            ("９１450103ｐｄｙ001012Ｕ", "91450103PDY001012U", repaired),
            ("\u{FEFF}91450103PDY001012U\t", "91450103PDY001012U", repaired),
            ("'91450103PDY001012U", "91450103PDY001012U", repaired),
            ("91450103-PDY00101-2U", "91450103PDY001012U", &["identifier.separator"]),
        ],
    );
    for kind in ["uscc", "citizen_id", "orgcode", "bizreg15", "bankcard", "mobile", "division", "project_code"] {
        let checker = Standard::builtin().checker(kind).expect(kind);
        // Arabic and mathematical digits, Cyrillic and Greek letters, circled and Roman numerals, what cannot be seen, what is too long.
        for alien in [
            "٤٥٠٢٠٤",
            "𝟒𝟓𝟎𝟐𝟎𝟒",
            "4Х0204",
            "45Χ204",
            "①50204",
            "Ⅹ50204",
            "4502\u{AD}04",
            "45\u{200B}0204",
            "45\u{202E}0204",
            "45\u{0}0204",
        ] {
            assert_eq!(checker.check(alien, &clock()).verdict(), Verdict::Error, "{kind} {alien:?}");
        }
        assert_eq!(checker.check(&"4".repeat(10_000_000), &clock()).verdict(), Verdict::Error, "{kind}");
    }
    let division: &[&str] = &["division.shortened"];
    holds("division", &[("450103.0", "450103", division), ("45", "450000", division), ("450103000000", "450103", division)]);
}

#[test]
fn texts_keep_rare_characters_and_refuse_damaged_ones() {
    all_become("text", "䶮𠮷𫖯𬱖", &["䶮𠮷𫖯𬱖"]);
    // What NFKC would change stays; traditional characters are never rewritten.
    for kept in ["㈱甲①Ⅳ℃㎡", "鐘錶昇甯峯", "南宁～柳州：甲"] {
        all_become("text", kept, &[kept]);
    }
    let repaired: &[&str] = &["text.repaired"];
    holds(
        "text",
        &[
            ("\u{F900}", "\u{8C48}", repaired),
            ("e\u{301}", "é", repaired),
            ("⼴西", "广西", repaired),
            ("⻄安", "西安", repaired),
            ("ＡＢＣ１２３", "ABC123", repaired),
            ("甲(乙)公司", "甲（乙）公司", repaired),
            ("张　三", "张 三", &["text.spaces"]),
        ],
    );
    for dot in ["•", "‧", "∙", "・", "．"] {
        holds("text", &[(&format!("阿卜杜{dot}测试"), "阿卜杜·测试", repaired)]);
    }
    // Where decoders of GB 18030 put six characters, and the fonts of departments their own.
    all_break(
        "text",
        "text.private_use",
        &["\u{E816}", "\u{E817}", "\u{E818}", "\u{E831}", "\u{E83B}", "\u{E855}", "韦\u{F8FF}", "\u{F0000}"],
    );
    all_break("text", "text.damaged", &["锟斤拷公司", "烫烫烫", "公司\u{FFFD}"]);
    all_break("text", "text.control", &["a\u{85}b", "a\u{0}b", "a\u{1B}b"]);
    all_break("text", "text.invisible", &["a\u{202E}b", "a\u{200D}b", "a\u{AD}b", "a\u{2067}b", "a\u{61C}b"]);
    all_break("text", "text.too_long", &[&"名".repeat(257)]);
    // Ten megabytes in a name are refused, not cut.
    all_break("name:100", "text.too_long", &[&"名".repeat(10_000_000 / 3)]);
}
