//! Masks: how a value is made less telling. A mask that cannot be applied to a value hides the whole of it.

use std::borrow::Cow;

use guitong_schemas::contract::subscription::Mask;
use guitong_schemas::standard::StandardValue;

use crate::key::HashKey;

/// Surnames of two characters that are still borne (百家姓 and later lists).
const COMPOUND_SURNAMES: &[&str] = &[
    "欧阳", "太史", "端木", "上官", "司马", "东方", "独孤", "南宫", "万俟", "闻人", "夏侯", "诸葛", "尉迟", "公羊", "赫连",
    "澹台", "皇甫", "宗政", "濮阳", "公冶", "太叔", "申屠", "公孙", "慕容", "仲孙", "钟离", "长孙", "宇文", "司徒", "鲜于",
    "司空", "闾丘", "子车", "亓官", "司寇", "巫马", "公西", "颛孙", "壤驷", "公良", "漆雕", "乐正", "宰父", "谷梁", "拓跋",
    "夹谷", "轩辕", "令狐", "段干", "百里", "呼延", "东郭", "南门", "羊舌", "微生", "左丘", "东门", "西门", "第五", "梁丘",
    "纳兰", "完颜", "叶赫",
];

/// What masks need beside the value.
pub(crate) struct Masking<'m> {
    /// Keys the hash; `None` where no granted field needs one.
    pub(crate) hash: Option<&'m HashKey>,
    /// Whether a text is the name of a province, city or county.
    pub(crate) is_division: &'m dyn Fn(&str) -> bool,
}

impl Masking<'_> {
    /// `value` under `mask`. Null stays null; a masked value is text, a list is masked item by item; nothing but the whole of a
    /// structured value can be shown or hidden.
    pub(crate) fn apply<'a>(&self, mask: Mask, value: &StandardValue<'a>) -> StandardValue<'a> {
        match (mask, value) {
            (Mask::None, value) => value.clone(),
            (Mask::Drop, _) | (_, StandardValue::Null | StandardValue::Steps(_)) => StandardValue::Null,
            (mask, StandardValue::TextList(items)) => {
                let items = items.iter().filter_map(|item| self.masked(mask, item));
                StandardValue::TextList(items.map(Cow::Owned).collect())
            }
            (mask, StandardValue::Text(text)) => self.masked(mask, text).map_or(StandardValue::Null, owned),
            (mask, value) => self.masked(mask, &value.to_string()).map_or(StandardValue::Null, owned),
        }
    }

    /// A text under a mask; `None` where nothing of it may be shown.
    fn masked(&self, mask: Mask, text: &str) -> Option<String> {
        Some(match mask {
            Mask::None => text.to_owned(),
            Mask::Name => name(text),
            Mask::Identifier | Mask::Card => ends(text, 6, 4),
            Mask::Phone => ends(text, 3, 4),
            Mask::Address => shown_or_stars(to_county(text, self.is_division), text).to_owned(),
            Mask::Year => shown_or_stars(year(text), text).to_owned(),
            Mask::Hash => hex::encode(self.hash?.value(text.as_bytes())),
            Mask::Drop => return None,
        })
    }
}

fn owned(text: String) -> StandardValue<'static> {
    StandardValue::Text(Cow::Owned(text))
}

/// Stars instead of nothing, so that a hidden value is told from an empty one.
fn shown_or_stars<'t>(shown: &'t str, of: &str) -> &'t str {
    if shown.is_empty() && !of.is_empty() { "****" } else { shown }
}

/// The surname, and one star for each further character: `张*`, `欧阳**`.
fn name(text: &str) -> String {
    let length = text.chars().count();
    let compound = length > 2 && COMPOUND_SURNAMES.iter().any(|surname| text.starts_with(surname));
    let shown = match (compound, length) {
        (_, 0 | 1) => 0,
        (true, _) => 2,
        (false, _) => 1,
    };
    starred(text, length, shown, 0)
}

/// Letters and digits that an identifier's or number's mask hides at least; a text too short for that is hidden whole.
const HIDDEN: usize = 4;

/// The first `head` and last `tail` characters, with a star for each between; nothing but stars where fewer than [`HIDDEN`] would be
/// between. What sets a number's parts apart hides nothing of it.
fn ends(text: &str, head: usize, tail: usize) -> String {
    let length = text.chars().count();
    let between = text.chars().take(length.saturating_sub(tail)).skip(head);
    let hides = between.filter(|&c| c.is_alphanumeric() || c == '*').count() >= HIDDEN;
    if hides { starred(text, length, head, tail) } else { starred(text, length, 0, 0) }
}

fn starred(text: &str, length: usize, head: usize, tail: usize) -> String {
    text.chars().enumerate().map(|(at, c)| if at < head || at + tail >= length { c } else { '*' }).collect()
}

/// The leading names of divisions, at most province, city and county; empty where the text starts with none. A division's code
/// of six digits says no more than that.
fn to_county<'t>(text: &'t str, is_division: &dyn Fn(&str) -> bool) -> &'t str {
    if text.len() == 6 && text.bytes().all(|b| b.is_ascii_digit()) {
        return text;
    }
    /// Longest name of a division in characters, with room for the autonomous ones.
    const LONGEST: usize = 18;
    let mut end = 0;
    for _level in 0..3 {
        let rest = text.get(end..).unwrap_or_default();
        let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).take(LONGEST);
        match ends.filter(|&at| rest.get(..at).is_some_and(is_division)).last() {
            Some(length) => end += length,
            None => break,
        }
    }
    text.get(..end).unwrap_or_default()
}

/// The year of a date written `YYYY` or `YYYY-…`; empty for every other text, such as a year of five digits.
fn year(text: &str) -> &str {
    let year = text.split_once('-').map_or(text, |(year, _)| year);
    if year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()) { year } else { "" }
}

#[cfg(test)]
mod tests {
    use guitong_schemas::standard::Step;

    use super::*;

    fn is_division(text: &str) -> bool {
        ["广西壮族自治区", "南宁市", "青秀区", "南宁市民族区"].contains(&text)
    }

    fn apply(mask: Mask, value: &StandardValue<'_>) -> Option<String> {
        let key = HashKey::new("s");
        let masked = Masking { hash: Some(&key), is_division: &is_division }.apply(mask, value);
        (!masked.is_null()).then(|| masked.to_string())
    }

    fn text(value: &str) -> StandardValue<'_> {
        StandardValue::Text(value.into())
    }

    #[test]
    fn each_mask_shows_what_it_says() {
        for (mask, value, shown) in [
            (Mask::None, "张三", "张三"),
            (Mask::Name, "张三", "张*"),
            (Mask::Name, "张三丰", "张**"),
            (Mask::Name, "欧阳测试", "欧阳**"),
            (Mask::Name, "欧阳测", "欧阳*"),
            (Mask::Name, "欧阳", "欧*"),
            (Mask::Name, "张", "*"),
            (Mask::Name, "", ""),
            (Mask::Name, "阿依古丽·买买提", "阿*******"),
            (Mask::Name, "欧阳·测", "欧阳**"),
            (Mask::Name, "张欧阳", "张**"),
            (Mask::Name, "𠮷测试", "𠮷**"),
            (Mask::Name, "张*", "张*"),
            (Mask::Name, "Li Ming", "L******"),
            (Mask::Identifier, "450102199001019997", "450102********9997"),
            (Mask::Identifier, "45010219900101999X", "450102********999X"),
            (Mask::Identifier, "450102900101000", "450102*****1000"),
            (Mask::Identifier, "91450103PDY001012U", "914501********012U"),
            (Mask::Identifier, "45010219900101", "450102****0101"),
            (Mask::Identifier, "4501021990019", "*************"),
            (Mask::Identifier, "E12345678", "*********"),
            (Mask::Identifier, "450102********9997", "450102********9997"),
            (Mask::Identifier, "450102-1--2-0001", "****************"),
            (Mask::Identifier, "桂房证字第0123456789号", "桂房证字第0******789号"),
            (Mask::Identifier, "", ""),
            (Mask::Identifier, "7", "*"),
            (Mask::Phone, "16000000001", "160****0001"),
            (Mask::Phone, "1600001", "*******"),
            (Mask::Phone, "110", "***"),
            (Mask::Phone, "55000000", "********"),
            (Mask::Phone, "0771-5500000", "077*****0000"),
            (Mask::Phone, "0771-550000", "***********"),
            (Mask::Phone, "0771-5500000-801", "077*********-801"),
            (Mask::Phone, "077 ---- 0000", "*************"),
            (Mask::Phone, "+8616000000001", "+86*******0001"),
            (Mask::Phone, "+852 6000 0000", "+85*******0000"),
            (Mask::Phone, "+1-202-555-0100", "+1-********0100"),
            (Mask::Phone, "16000000001;16000000002", "160****************0002"),
            (Mask::Phone, "１６００００００００１", "１６０****０００１"),
            (Mask::Phone, "", ""),
            (Mask::Card, "620000000012", "************"),
            (Mask::Card, "6200000000123", "*************"),
            (Mask::Card, "62000000001234", "620000****1234"),
            (Mask::Card, "620000000012345", "620000*****2345"),
            (Mask::Card, "6200000000123456", "620000******3456"),
            (Mask::Card, "62000000001234567", "620000*******4567"),
            (Mask::Card, "620000000012345678", "620000********5678"),
            (Mask::Card, "6200000000123456789", "620000*********6789"),
            (Mask::Card, "６２００００００００１２３４５６", "６２００００******３４５６"),
            (Mask::Card, "6200 0000 0012 3456", "6200 0*********3456"),
            (Mask::Address, "广西壮族自治区南宁市青秀区民族大道1号小区", "广西壮族自治区南宁市青秀区"),
            (Mask::Address, "广西壮族自治区南宁市青秀区", "广西壮族自治区南宁市青秀区"),
            (Mask::Address, "南宁市民族大道1号", "南宁市"),
            (Mask::Address, "青秀区1号", "青秀区"),
            (Mask::Address, "某路1号", "****"),
            (Mask::Address, "某路南宁市", "****"),
            (Mask::Address, "1", "****"),
            (Mask::Address, "", ""),
            (Mask::Address, "450102", "450102"),
            (Mask::Address, "450102001", "****"),
            (Mask::Address, "４５０１０２", "****"),
            (Mask::Year, "1990-01-01", "1990"),
            (Mask::Year, "1990-12", "1990"),
            (Mask::Year, "1990", "1990"),
            (Mask::Year, "九〇年", "****"),
            (Mask::Year, "１９９０-01-01", "****"),
            (Mask::Year, "19900", "****"),
            (Mask::Year, "199", "****"),
            (Mask::Year, "-199-01-01", "****"),
            (Mask::Year, "", ""),
        ] {
            assert_eq!(apply(mask, &text(value)).as_deref(), Some(shown), "{mask:?} {value}");
        }
    }

    #[test]
    fn a_year_is_that_of_the_day_in_guangxi() {
        const DAY: i64 = 86_400_000_000;
        let midnight = 7_305 * DAY - DAY / 3;
        for (value, shown) in [
            (StandardValue::Date(7_304), "1989"),
            (StandardValue::Date(7_305), "1990"),
            (StandardValue::Date(7_669), "1990"),
            (StandardValue::Date(7_670), "1991"),
            (StandardValue::Time(midnight - 1), "1989"),
            (StandardValue::Time(midnight), "1990"),
            (StandardValue::Date(2_932_896), "9999"),
            (StandardValue::Date(2_932_897), "****"),
            (StandardValue::Date(-719_163), "0000"),
            (StandardValue::Date(-719_529), "****"),
        ] {
            assert_eq!(apply(Mask::Year, &value).as_deref(), Some(shown), "{value}");
        }
    }

    const ALL: [Mask; 9] =
        [Mask::None, Mask::Name, Mask::Identifier, Mask::Phone, Mask::Card, Mask::Address, Mask::Year, Mask::Hash, Mask::Drop];

    #[test]
    fn nothing_stays_nothing_and_what_is_dropped_or_structured_is_gone() {
        let step = Step { name: Some("受理".to_owned()), handler: Some("张三".to_owned()), ..Step::default() };
        let steps = StandardValue::Steps(vec![step]);
        for mask in ALL {
            assert_eq!(apply(mask, &StandardValue::Null), None, "{mask:?}");
            assert_eq!(apply(mask, &steps).is_some(), mask == Mask::None, "{mask:?}");
        }
        for value in
            [text("张三"), text(""), StandardValue::Date(0), StandardValue::Int(7), StandardValue::TextList(vec!["1".into()])]
        {
            assert_eq!(apply(Mask::Drop, &value), None, "{value}");
            assert_eq!(apply(Mask::None, &value), Some(value.to_string()));
        }
    }

    /// What is no text is masked as the text that it is written as, and is a text then.
    #[test]
    fn other_values_are_masked_as_they_are_written() {
        let amount = StandardValue::Decimal { unscaled: -12_345_678_901_234, scale: 2 };
        for (mask, value, shown) in [
            (Mask::Identifier, StandardValue::Int(450_102_199_001_019_997), "450102********9997"),
            (Mask::Phone, StandardValue::Int(16_000_000_001), "160****0001"),
            (Mask::Name, StandardValue::Int(7), "*"),
            (Mask::Year, StandardValue::Int(19_900), "****"),
            (Mask::Card, amount, "-12345******2.34"),
            (Mask::Address, StandardValue::Date(0), "****"),
        ] {
            assert_eq!(apply(mask, &value).as_deref(), Some(shown), "{mask:?} {value}");
        }
        let key = HashKey::new("s");
        let masking = Masking { hash: Some(&key), is_division: &is_division };
        for value in [
            StandardValue::Date(0),
            StandardValue::Int(7),
            StandardValue::Time(0),
            StandardValue::Decimal { unscaled: 1, scale: 0 },
        ] {
            for mask in ALL.into_iter().filter(|mask| !matches!(mask, Mask::None | Mask::Drop)) {
                assert!(matches!(masking.apply(mask, &value), StandardValue::Text(_)), "{mask:?} {value}");
            }
        }
    }

    #[test]
    fn a_hash_is_the_same_for_the_same_value_only() {
        let one = apply(Mask::Hash, &text("450102199001019997"));
        assert_eq!(one, apply(Mask::Hash, &text("450102199001019997")));
        assert_ne!(one, apply(Mask::Hash, &text("450102199001019989")));
        assert_eq!(one.as_ref().map(String::len), Some(32));
        let other = HashKey::new("t");
        let other = Masking { hash: Some(&other), is_division: &is_division }.apply(Mask::Hash, &text("450102199001019997"));
        assert_ne!(one, Some(other.to_string()), "another subscription's secret gives another one");
        let none = Masking { hash: None, is_division: &is_division }.apply(Mask::Hash, &text("450102199001019997"));
        assert!(none.is_null(), "without a secret nothing is shown");
    }

    #[test]
    fn lists_are_masked_item_by_item() {
        let list = StandardValue::TextList(vec!["张三".into(), "欧阳修测".into()]);
        for (mask, shown) in
            [(Mask::Name, "张*;欧阳**"), (Mask::Identifier, "**;****"), (Mask::Address, "****;****"), (Mask::Year, "****;****")]
        {
            assert_eq!(apply(mask, &list).as_deref(), Some(shown), "{mask:?}");
        }
        let hashed = apply(Mask::Hash, &list).unwrap();
        let each = ["张三", "欧阳修测"].map(|item| apply(Mask::Hash, &text(item)).unwrap());
        assert_eq!(hashed, each.join(";"));
        assert_eq!(apply(Mask::Name, &StandardValue::TextList(Vec::new())).as_deref(), Some(""));
    }
}
