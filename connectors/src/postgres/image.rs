//! Work on row images without turning them into values: keys, projection and completion.
//!
//! Images come from [`super::decode`] or [`super::copy`], which checked them, so a damaged one simply ends early here.

use bytes::{BufMut, BytesMut};
use guitong_schemas::change::RowImage;

/// The fields of a row, each with its kind byte and length, as they stand in the image.
pub(crate) fn fields(image: &RowImage) -> impl Iterator<Item = &[u8]> {
    let mut rest: &[u8] = &image.0;
    std::iter::from_fn(move || {
        let (&kind, _) = rest.split_first()?;
        let length = match kind {
            b't' | b'b' => {
                let length = rest.get(1..5)?.try_into().ok().map(u32::from_be_bytes)?;
                usize::try_from(length).ok()?.checked_add(5)?
            }
            _ => 1,
        };
        let (field, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(field)
    })
}

/// The value inside a field; `None` for null and absent ones.
pub(crate) fn value(field: &[u8]) -> Option<&[u8]> {
    match field.first()? {
        b't' | b'b' => field.get(5..),
        _ => None,
    }
}

/// The key's fields one after the other, in the key's order: equal for equal keys.
pub(crate) fn key(image: &RowImage, columns: &[usize]) -> Vec<u8> {
    // Keys are short and mostly the first columns, so one walk for each key column is cheaper than collecting all fields.
    let mut out = Vec::with_capacity(24);
    for &column in columns {
        out.extend_from_slice(fields(image).nth(column).unwrap_or_default());
    }
    out
}

/// Text of the key's values; `None` where one is null or was not sent.
pub(crate) fn key_text(image: &RowImage, columns: &[usize]) -> Option<Vec<String>> {
    let text = |&column: &usize| Some(std::str::from_utf8(fields(image).nth(column).and_then(value)?).ok()?.to_owned());
    columns.iter().map(text).collect()
}

/// [`key`] of a row whose key has this text.
pub(crate) fn key_of_text(text: &[String]) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    for value in text {
        out.push(b't');
        // A text from an image, whose values are below 4 GiB.
        out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    out
}

/// Whether a key column of the image was not sent (unchanged TOAST in the key).
pub(crate) fn key_has_absent(image: &RowImage, columns: &[usize]) -> bool {
    columns.iter().any(|&column| fields(image).nth(column).is_none_or(|field| field.first() == Some(&b'u')))
}

pub(crate) fn has_absent(image: &RowImage) -> bool {
    fields(image).any(|field| field.first() == Some(&b'u'))
}

/// Only the columns marked in `keep`.
pub(crate) fn project(image: &RowImage, keep: &[bool]) -> RowImage {
    let mut out = BytesMut::with_capacity(image.0.len());
    for (field, _) in fields(image).zip(keep).filter(|(_, kept)| **kept) {
        out.put_slice(field);
    }
    RowImage(out.freeze())
}

/// The image with its absent columns (of `columns` alone, where given) taken from `from`, a row of the same table.
pub(crate) fn complete(image: &RowImage, from: &RowImage, columns: Option<&[usize]>) -> RowImage {
    let mut out = BytesMut::with_capacity(image.0.len() + from.0.len());
    for (at, (field, other)) in fields(image).zip(fields(from)).enumerate() {
        let wanted = columns.is_none_or(|columns| columns.contains(&at));
        out.put_slice(if wanted && field.first() == Some(&b'u') { other } else { field });
    }
    RowImage(out.freeze())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use guitong_schemas::change::RowBuilder;
    use proptest::prelude::*;

    use super::*;

    fn row(values: &[Option<&str>]) -> RowImage {
        let mut builder = RowBuilder::default();
        for value in values {
            match value {
                Some("<absent>") => builder.absent(),
                Some(text) => builder.text(text.as_bytes()).unwrap(),
                None => builder.null(),
            }
        }
        builder.finish()
    }

    #[test]
    fn keys_compare_by_their_own_columns_in_their_own_order() {
        let a = row(&[Some("1"), Some("x"), Some("北")]);
        let b = row(&[Some("1"), None, Some("北")]);
        assert_eq!(key(&a, &[2, 0]), key(&b, &[2, 0]));
        assert_ne!(key(&a, &[0, 2]), key(&b, &[2, 0]));
        assert_eq!(key(&a, &[2, 0]), key_of_text(&["北".to_owned(), "1".to_owned()]));
        assert_ne!(key(&row(&[Some("ab"), Some("c")]), &[0, 1]), key(&row(&[Some("a"), Some("bc")]), &[0, 1]));
    }

    #[test]
    fn absent_columns_come_from_the_other_row() {
        let event = row(&[Some("1"), Some("<absent>"), None]);
        let chunk = row(&[Some("1"), Some("long"), Some("old")]);
        assert!(has_absent(&event));
        assert_eq!(complete(&event, &chunk, None), row(&[Some("1"), Some("long"), None]));
        assert_eq!(complete(&event, &chunk, Some(&[0])), event);
    }

    #[test]
    fn projection_leaves_out_columns() {
        let image = row(&[Some("1"), Some("secret"), None]);
        assert_eq!(project(&image, &[true, false, true]), row(&[Some("1"), None]));
    }

    proptest! {
        #[test]
        fn damaged_images_never_panic(data in proptest::collection::vec(any::<u8>(), 0..120)) {
            let image = RowImage(Bytes::from(data));
            let _ = (fields(&image).count(), key(&image, &[0, 3]), project(&image, &[true, false]));
        }
    }
}
