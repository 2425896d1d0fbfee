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
            Mask::Identifier | Mask::Card => ends(text, 6, 4, HIDDEN),
            Mask::Phone => ends(text, 3, 4, HIDDEN),
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
    ends(text, shown, 0, 1)
}

/// Characters that an identifier's or number's mask hides at least; a text too short for that is hidden whole.
const HIDDEN: usize = 4;

/// The first `head` and last `tail` characters, with a star for each between; nothing but stars where fewer than `hidden` would
/// be between.
fn ends(text: &str, head: usize, tail: usize, hidden: usize) -> String {
    let length = text.chars().count();
    let (head, tail) = if length >= head + tail + hidden { (head, tail) } else { (0, 0) };
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

/// The year of a date written `YYYY…`; empty for every other text.
fn year(text: &str) -> &str {
    text.get(..4).filter(|year| year.bytes().all(|b| b.is_ascii_digit())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
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
            (Mask::Name, "欧阳", "欧*"),
            (Mask::Name, "张", "*"),
            (Mask::Identifier, "450102199001019997", "450102********9997"),
            (Mask::Identifier, "4501021990019", "*************"),
            (Mask::Phone, "16000000001", "160****0001"),
            (Mask::Phone, "1600001", "*******"),
            (Mask::Card, "6222020200000000001", "622202*********0001"),
            (Mask::Address, "广西壮族自治区南宁市青秀区民族大道1号小区", "广西壮族自治区南宁市青秀区"),
            (Mask::Address, "南宁市民族大道1号", "南宁市"),
            (Mask::Address, "某路1号", "****"),
            (Mask::Address, "450102", "450102"),
            (Mask::Year, "1990-01-01", "1990"),
            (Mask::Year, "1990", "1990"),
            (Mask::Year, "九〇年", "****"),
        ] {
            assert_eq!(apply(mask, &text(value)).as_deref(), Some(shown), "{mask:?} {value}");
        }
        assert_eq!(apply(Mask::Year, &StandardValue::Date(7_305)).as_deref(), Some("1990"));
        assert_eq!(apply(Mask::Drop, &text("张三")), None);
        assert_eq!(apply(Mask::Name, &StandardValue::Null), None);
    }

    #[test]
    fn a_hash_is_the_same_for_the_same_value_only() {
        let one = apply(Mask::Hash, &text("450102199001019997"));
        assert_eq!(one, apply(Mask::Hash, &text("450102199001019997")));
        assert_ne!(one, apply(Mask::Hash, &text("450102199001019989")));
        assert_eq!(one.map(|text| text.len()), Some(32));
    }

    #[test]
    fn lists_are_masked_item_by_item() {
        let list = StandardValue::TextList(vec!["张三".into(), "欧阳修测".into()]);
        assert_eq!(apply(Mask::Name, &list).as_deref(), Some("张*;欧阳**"));
    }
}
