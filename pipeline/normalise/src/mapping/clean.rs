//! The steps of `clean`.

use std::borrow::Cow;

use guitong_schemas::contract::mapping::Cleaning;

/// Marks that stand around a whole value, in pairs.
const QUOTES: [(char, char); 8] =
    [('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’'), ('「', '」'), ('『', '』'), ('《', '》'), ('〈', '〉')];
const BRACKETS: [(char, char); 5] = [('(', ')'), ('（', '）'), ('[', ']'), ('【', '】'), ('〔', '〕')];

/// Elements whose content is no text.
const SILENT: [&str; 3] = ["script", "style", "head"];

/// One step of cleaning.
pub(super) fn clean(text: &str, step: Cleaning) -> Cow<'_, str> {
    match step {
        Cleaning::Html => html(text),
        Cleaning::Lines => lines(text),
        Cleaning::Quotes => Cow::Borrowed(unquoted(text)),
        Cleaning::Brackets => without_brackets(text),
        Cleaning::Spaces if text.contains(char::is_whitespace) => {
            Cow::Owned(text.chars().filter(|letter| !letter.is_whitespace()).collect())
        }
        Cleaning::Spaces => Cow::Borrowed(text),
    }
}

fn lines(text: &str) -> Cow<'_, str> {
    if !text.contains(['\r', '\n', '\t', '\u{2028}', '\u{2029}', '\u{B}', '\u{C}']) && !text.contains("  ") {
        return Cow::Borrowed(text);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    Cow::Owned(words.join(" "))
}

fn unquoted(text: &str) -> &str {
    let trimmed = text.trim();
    QUOTES.iter().find_map(|(open, close)| trimmed.strip_prefix(*open)?.strip_suffix(*close)).unwrap_or(text)
}

/// Nothing is taken out where brackets do not pair: half of a bracket says that the text was cut.
fn without_brackets(text: &str) -> Cow<'_, str> {
    let mut open: Vec<char> = Vec::new();
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if let Some((_, close)) = BRACKETS.iter().find(|(opening, _)| *opening == letter) {
            open.push(*close);
        } else if BRACKETS.iter().any(|(_, close)| *close == letter) {
            if open.pop() != Some(letter) {
                return Cow::Borrowed(text);
            }
        } else if open.is_empty() {
            out.push(letter);
        }
    }
    if open.is_empty() && out.len() < text.len() { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

/// The text of a fragment of HTML: tags become spaces where they end a line and vanish elsewhere.
fn html(text: &str) -> Cow<'_, str> {
    if !text.contains(['<', '&']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        let (before, marked) = rest.split_at(at);
        out.push_str(before);
        rest = if marked.starts_with('&') { entity(marked, &mut out) } else { tag(marked, &mut out) };
    }
    out.push_str(rest);
    Cow::Owned(lines(out.trim()).into_owned())
}

/// Reads past one tag or comment; a `<` that begins neither is text.
fn tag<'t>(marked: &'t str, out: &mut String) -> &'t str {
    if let Some(comment) = marked.strip_prefix("<!--") {
        return comment.split_once("-->").map_or("", |(_, rest)| rest);
    }
    let inner = marked.get(1..).unwrap_or_default();
    let name: String =
        inner.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let Some((_, rest)) = inner.split_once('>').filter(|_| !name.is_empty() || inner.starts_with(['!', '?'])) else {
        out.push('<');
        return inner;
    };
    if matches!(name.as_str(), "br" | "p" | "div" | "li" | "tr" | "td" | "th" | "h1" | "h2" | "h3" | "h4" | "table" | "ul" | "ol")
    {
        out.push(' ');
    }
    if SILENT.contains(&name.as_str()) && !inner.starts_with('/') {
        return after_element(rest, &name);
    }
    rest
}

/// What follows the end tag of an element.
fn after_element<'t>(content: &'t str, name: &str) -> &'t str {
    let mut rest = content;
    while let Some((_, tail)) = rest.split_once("</") {
        if tail.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
            return tail.split_once('>').map_or("", |(_, rest)| rest);
        }
        rest = tail;
    }
    ""
}

/// Reads one character reference; a `&` that begins none is text.
fn entity<'t>(marked: &'t str, out: &mut String) -> &'t str {
    /// Longest reference that is looked for, in bytes.
    const LONGEST: usize = 12;
    let body = marked.get(1..).unwrap_or_default();
    let found =
        body.bytes().take(LONGEST).position(|byte| byte == b';').and_then(|end| Some((body.get(..end)?, body.get(end + 1..)?)));
    let character = found.and_then(|(name, _)| match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" | "ensp" | "emsp" => Some(' '),
        "middot" => Some('·'),
        "ldquo" => Some('“'),
        "rdquo" => Some('”'),
        "hellip" => Some('…'),
        "mdash" => Some('—'),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok(),
                None => number.parse().ok(),
            };
            code.and_then(char::from_u32)
        }
    });
    match (character, found) {
        (Some(character), Some((_, rest))) => {
            out.push(character);
            rest
        }
        _ => {
            out.push('&');
            body
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_step_does_what_it_says() {
        for (step, text, expected) in [
            (Cleaning::Html, "<p>中标&nbsp;公告</p><p>金额：&lt;100&#x4E07;&#20803;</p>", "中标 公告 金额：<100万元"),
            (Cleaning::Html, "<style>p {}</style>甲<script>a < b</script>乙<!-- 丙 -->", "甲乙"),
            (Cleaning::Html, "3 < 5 & 7 &copy; <b", "3 < 5 & 7 &copy; <b"),
            (Cleaning::Lines, "第一行\r\n\t第二行  完", "第一行 第二行 完"),
            (Cleaning::Quotes, " “测试公司甲” ", "测试公司甲"),
            (Cleaning::Quotes, "“测试”公司", "“测试”公司"),
            (Cleaning::Brackets, "测试公司甲（个体（甲））[旧]", "测试公司甲"),
            (Cleaning::Brackets, "测试公司甲（个体", "测试公司甲（个体"),
            (Cleaning::Brackets, "甲）乙（", "甲）乙（"),
            (Cleaning::Spaces, "张　三 丰\n", "张三丰"),
        ] {
            assert_eq!(clean(text, step), expected, "{step:?} of {text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_stops_a_step_and_clean_text_stays(text in "[<>/&;a-z#0-9 \"'“”（）()甲\n!-]{0,40}") {
            for step in [Cleaning::Html, Cleaning::Lines, Cleaning::Quotes, Cleaning::Brackets, Cleaning::Spaces] {
                let cleaned = clean(&text, step).into_owned();
                // A reference can spell markup, and quotes can stand in quotes: those are not taken twice.
                if matches!(step, Cleaning::Lines | Cleaning::Brackets | Cleaning::Spaces) {
                    prop_assert_eq!(clean(&cleaned, step).into_owned(), cleaned.clone(), "{:?} of {}", step, text);
                }
            }
        }
    }
}
