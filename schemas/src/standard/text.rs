//! Text hygiene: width of letters and digits, brackets, middle dots, glyph variants, spaces.
//!
//! Chinese punctuation stays full-width, names are never rewritten between traditional and simplified, and NFKC is applied to Kangxi radicals
//! alone: over running text it would change what people wrote.

use std::borrow::Cow;

use unicode_normalization::char::decompose_compatible;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::characters::{fold_width, is_han, is_space, refused, trimmed};
use super::finding::{Remarks, Rule};

/// What earlier wrong conversions leave behind.
const DAMAGED: [&str; 2] = ["锟斤拷", "烫烫烫"];

/// Cleans a running text of at most `max` characters.
pub(crate) fn text<'a>(text: &'a str, max: usize, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    clean(text, max, false, remarks)
}

/// Cleans a name: besides, a full stop between Han characters is a middle dot, and doubtful names are noted.
pub(crate) fn name<'a>(text: &'a str, max: usize, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    let name = clean(text, max, true, remarks)?;
    let mut letters = name.chars();
    let (first, second) = (letters.next(), letters.next());
    if first.is_some() && second.is_none() {
        remarks.warn(Rule::NameShort);
    }
    // 张 三 is usually padding, but a space also separates the parts of other peoples' names.
    if name.contains(' ')
        && name.chars().filter(|letter| *letter != ' ').count() <= 3
        && name.chars().all(|l| l == ' ' || is_han(l))
    {
        remarks.note(Rule::NameInnerSpace);
    }
    Ok(name)
}

fn clean<'a>(text: &'a str, max: usize, dots: bool, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    if is_plain(text, dots) {
        return if text.len() <= max || text.chars().count() <= max { Ok(Cow::Borrowed(text)) } else { Err(Rule::TextTooLong) };
    }
    let (cleaned, spaces) = rewrite(text, dots)?;
    if DAMAGED.iter().any(|mark| cleaned.contains(mark)) {
        return Err(Rule::TextDamaged);
    }
    if cleaned.chars().count() > max {
        return Err(Rule::TextTooLong);
    }
    if cleaned == text {
        return Ok(Cow::Borrowed(text));
    }
    remarks.note(if spaces { Rule::TextSpaces } else { Rule::TextRepaired });
    Ok(Cow::Owned(cleaned))
}

/// Whether nothing can be to do: ASCII without outer or double spaces, or common Han characters and Chinese punctuation.
/// It may say no to a clean text; that one is then looked at letter by letter.
fn is_plain(text: &str, dots: bool) -> bool {
    let bytes = text.as_bytes();
    if matches!(bytes.first(), None | Some(b' ' | b'\'')) || bytes.last() == Some(&b' ') {
        return false;
    }
    if bytes.iter().all(|b| (0x20..0x7F).contains(b)) {
        return !text.contains("  ");
    }
    let mut brackets = false;
    let mut before = '\0';
    for letter in text.chars() {
        let plain = match letter {
            '(' | ')' => {
                brackets = true;
                true
            }
            ' ' => before != ' ',
            '.' => !dots,
            '!'..='~' | '\u{B7}' => true,
            // 锟 and 烫 begin what damaged texts are told by.
            '锟' | '烫' => false,
            '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '、'..='\u{301B}' => true,
            '，' | '：' | '；' | '？' | '！' | '（' | '）' => true,
            '\u{2014}' | '\u{2018}'..='\u{201D}' | '\u{2026}' => true,
            _ => false,
        };
        if !plain {
            return false;
        }
        before = letter;
    }
    !brackets
}

/// The cleaned text, and whether only spaces changed.
fn rewrite(text: &str, dots: bool) -> Result<(String, bool), Rule> {
    let mut letters: Vec<char> = Vec::with_capacity(text.len());
    let mut spaces = trimmed(text).len() != text.len();
    for letter in trimmed(text).chars() {
        if is_space(letter) {
            spaces |= letter != ' ' || letters.last() == Some(&' ');
            if letters.last() != Some(&' ') {
                letters.push(' ');
            }
            continue;
        }
        if let Some(rule) = refused(letter) {
            return Err(rule);
        }
        variant(letter, &mut letters);
    }
    let mut repaired = false;
    middle_dots(&mut letters, dots);
    brackets(&mut letters);
    let mut cleaned: String = letters.into_iter().collect();
    if !is_nfc(&cleaned) {
        cleaned = cleaned.nfc().collect();
        repaired = true;
    }
    let same_but_spaces = || cleaned.chars().filter(|l| !is_space(*l)).eq(text.chars().filter(|l| !is_space(*l)));
    let only_spaces = spaces && !repaired && same_but_spaces();
    Ok((cleaned, only_spaces))
}

/// Digits and Latin letters to half width, radicals to the characters they stand for.
fn variant(letter: char, letters: &mut Vec<char>) {
    match letter {
        '０'..='９' | 'Ａ'..='Ｚ' | 'ａ'..='ｚ' => letters.push(fold_width(letter)),
        '\u{2F00}'..='\u{2FD5}' => decompose_compatible(letter, |unified| letters.push(unified)),
        '\u{2E80}'..='\u{2EF3}' => letters.push(radical(letter)),
        _ => letters.push(letter),
    }
}

/// Radicals of the supplement that are met in place of a character: Unicode's equivalent unified ideograph of those with one
/// in common use. The others stay.
fn radical(letter: char) -> char {
    match letter {
        '⺟' => '母',
        '⺠' => '民',
        '⻁' => '虎',
        '⻄' => '西',
        '⻅' => '见',
        '⻆' => '角',
        '⻉' => '贝',
        '⻋' => '车',
        '⻓' => '长',
        '⻔' => '门',
        '⻘' => '青',
        '⻙' => '韦',
        '⻚' => '页',
        '⻛' => '风',
        '⻜' => '飞',
        '⻝' => '食',
        '⻢' => '马',
        '⻣' => '骨',
        '⻤' => '鬼',
        '⻥' => '鱼',
        '⻦' => '鸟',
        '⻨' => '麦',
        '⻩' => '黄',
        '⻬' => '齐',
        '⻮' => '齿',
        '⻰' => '龙',
        '⻳' => '龟',
        _ => letter,
    }
}

/// One middle dot between Han characters, whatever stood for it. A full-width stop between digits is a decimal point.
fn middle_dots(letters: &mut [char], dots: bool) {
    for at in 1..letters.len().saturating_sub(1) {
        let [Some(before), Some(dot), Some(after)] =
            [letters.get(at - 1), letters.get(at), letters.get(at + 1)].map(Option::<&char>::copied)
        else {
            continue;
        };
        let between_han = is_han(before) && is_han(after);
        let written = match dot {
            '•' | '‧' | '∙' | '・' | '･' | '．' if between_han => '·',
            '.' if between_han && dots => '·',
            '．' if before.is_ascii_digit() && after.is_ascii_digit() => '.',
            _ => continue,
        };
        if let Some(held) = letters.get_mut(at) {
            *held = written;
        }
    }
}

/// Brackets next to Chinese text are full-width, and the two of a pair are alike.
fn brackets(letters: &mut [char]) {
    let mut open: Vec<usize> = Vec::new();
    for at in 0..letters.len() {
        match letters.get(at) {
            Some('(' | '（') => open.push(at),
            Some(')' | '）') => {
                let pair = [open.pop(), Some(at)];
                let wide = pair.iter().flatten().any(|at| {
                    matches!(letters.get(*at), Some('（' | '）'))
                        || [at.checked_sub(1), at.checked_add(1)]
                            .into_iter()
                            .flatten()
                            .any(|beside| letters.get(beside).copied().is_some_and(is_han))
                });
                if wide {
                    for (at, written) in pair.into_iter().zip(['（', '）']) {
                        if let Some(held) = at.and_then(|at| letters.get_mut(at)) {
                            *held = written;
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

/// An address of a page: `http` or `https`, a host, no spaces.
pub(crate) fn url<'a>(text: &'a str, remarks: &mut Remarks<'_>) -> Result<Cow<'a, str>, Rule> {
    let address = trimmed(text);
    if address.len() > 2000 {
        return Err(Rule::TextTooLong);
    }
    if let Some(rule) = address.chars().find_map(refused) {
        return Err(rule);
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let (head, rest) = address.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default()).ok_or(Rule::UrlForm)?;
    if host.is_empty() || address.contains(is_space) || address.contains(['<', '>', '"', '\'']) {
        return Err(Rule::UrlForm);
    }
    if address.len() != text.len() {
        remarks.note(Rule::TextSpaces);
    }
    Ok(Cow::Borrowed(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(input: &str) -> Result<String, Rule> {
        let mut findings = Vec::new();
        text(input, 50, &mut Remarks { field: 0, findings: &mut findings }).map(Cow::into_owned)
    }

    fn named(input: &str) -> (Result<String, Rule>, Vec<Rule>) {
        let mut findings = Vec::new();
        let read = name(input, 50, &mut Remarks { field: 0, findings: &mut findings }).map(Cow::into_owned);
        (read, findings.into_iter().map(|finding| finding.rule).collect())
    }

    #[test]
    fn brackets_of_a_pair_are_alike() {
        for (input, expected) in [
            ("测试(ABC)", "测试（ABC）"),
            ("ABC (DEF)", "ABC (DEF)"),
            ("测试(甲）公司", "测试（甲）公司"),
            ("(a) 测试", "(a) 测试"),
            ("测试(甲(乙))", "测试（甲（乙））"),
            ("甲)", "甲）"),
        ] {
            assert_eq!(cleaned(input).as_deref(), Ok(expected), "{input}");
        }
    }

    #[test]
    fn a_stop_is_a_dot_in_names_only() {
        assert_eq!(named("阿卜杜.测试").0.as_deref(), Ok("阿卜杜·测试"));
        assert_eq!(cleaned("第一条.内容").as_deref(), Ok("第一条.内容"));
        assert_eq!(cleaned("高１．５米").as_deref(), Ok("高1.5米"));
    }

    #[test]
    fn doubtful_names_are_kept() {
        assert_eq!(named("张 三"), (Ok("张 三".into()), vec![Rule::NameInnerSpace]));
        assert_eq!(named("测"), (Ok("测".into()), vec![Rule::NameShort]));
        assert_eq!(named("测试甲"), (Ok("测试甲".into()), vec![]));
    }

    #[test]
    fn damage_is_refused() {
        assert_eq!(cleaned("锟斤拷公司"), Err(Rule::TextDamaged));
        assert_eq!(cleaned("烫手"), Ok("烫手".into()));
        assert_eq!(cleaned(&"字".repeat(51)), Err(Rule::TextTooLong));
        assert_eq!(cleaned("第一行\r\n第二行"), Ok("第一行 第二行".into()));
    }

    #[test]
    fn only_web_addresses_are_addresses() {
        let mut findings = Vec::new();
        let mut remarks = Remarks { field: 0, findings: &mut findings };
        assert!(url("HTTPS://example.com/公告?id=1", &mut remarks).is_ok());
        for text in ["ftp://example.com", "http://", "javascript:alert(1)", "http://a b", "http:///x", "http://a/<b>"] {
            assert_eq!(url(text, &mut remarks), Err(Rule::UrlForm), "{text}");
        }
    }
}
