//! Avro's variable-length zigzag integers (Avro specification, "Binary encoding").

pub(crate) fn write_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

pub(crate) fn write_bytes(out: &mut Vec<u8>, value: &[u8]) {
    write_long(out, value.len() as i64);
    out.extend_from_slice(value);
}

/// Puts `number` in front of what `out` holds from `start` on.
pub(crate) fn prefix_long(out: &mut Vec<u8>, start: usize, number: usize) {
    let before = out.len();
    write_long(out, number as i64);
    let width = out.len() - before;
    if let Some(written) = out.get_mut(start..) {
        written.rotate_right(width);
    }
}

/// The number at the front of `input` and its width in bytes; `None` where it does not end or does not fit.
pub(crate) fn read_long(input: &[u8]) -> Option<(i64, usize)> {
    let mut value = 0_u64;
    for (at, &byte) in input.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Some(((value >> 1) as i64 ^ -((value & 1) as i64), at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn longs_round_trip(value: i64) {
            let mut out = vec![];
            write_long(&mut out, value);
            prop_assert_eq!(read_long(&out), Some((value, out.len())));
            prop_assert_eq!(read_long(&out[..out.len() - 1]), None);
        }
    }

    #[test]
    fn a_number_over_64_bits_is_refused() {
        assert_eq!(read_long(&[0xff; 12]), None);
        assert_eq!(read_long(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), None);
    }

    #[test]
    fn a_prefix_goes_in_front() {
        let mut out = b"ab-cd".to_vec();
        prefix_long(&mut out, 3, 300);
        assert_eq!(out, b"ab-\xd8\x04cd");
    }
}
