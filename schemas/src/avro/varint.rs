//! Avro's variable-length zigzag integers (Avro specification, "Binary encoding").

/// Sequences of seven bits in a word of 64.
const SEVENS: u32 = 7;

#[inline]
pub(crate) fn write_long(out: &mut Vec<u8>, value: i64) {
    let zigzag = (value << 1 ^ value >> 63) as u64;
    if zigzag < 0x80 {
        out.push(zigzag as u8);
    } else {
        write_wide(out, zigzag);
    }
}

/// A number of two bytes or more: eight groups of seven bits at once, as a loop with a push for each byte takes three times as long.
fn write_wide(out: &mut Vec<u8>, zigzag: u64) {
    // Halves, quarters, then eighths of the lower 56 bits move apart until each group of seven has a byte of its own.
    let halves = zigzag & 0x0fff_ffff | (zigzag & 0x00ff_ffff_f000_0000) << 4;
    let quarters = halves & 0x0000_3fff_0000_3fff | (halves & 0x0fff_c000_0fff_c000) << 2;
    let groups = quarters & 0x007f_007f_007f_007f | (quarters & 0x3f80_3f80_3f80_3f80) << 1;
    let bits = u64::BITS - zigzag.leading_zeros();
    let width = bits.div_ceil(SEVENS);
    if width <= 8 {
        // Every byte but the last says that another follows.
        let follows = 0x8080_8080_8080_8080 & ((1 << (8 * (width - 1))) - 1);
        let end = out.len() + width as usize;
        out.extend_from_slice(&(groups | follows).to_le_bytes());
        out.truncate(end);
        return;
    }
    out.extend_from_slice(&(groups | 0x8080_8080_8080_8080).to_le_bytes());
    let rest = (zigzag >> 56) as u8;
    if width == 9 {
        out.push(rest);
    } else {
        out.extend_from_slice(&[rest | 0x80, 1]);
    }
}

#[inline]
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

/// The number at the front of `input` and what follows it; `None` where it does not end or does not fit.
#[inline]
pub(crate) fn read_long(input: &[u8]) -> Option<(i64, &[u8])> {
    match input {
        // Branches of unions and lengths of short texts.
        [byte @ ..0x80, rest @ ..] => Some((unzigzag((*byte).into()), rest)),
        [low, high @ ..0x80, rest @ ..] => Some((unzigzag(u64::from(low & 0x7f) | u64::from(*high) << 7), rest)),
        _ => read_wide(input),
    }
}

fn read_wide(input: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0_u64;
    for (at, &byte) in input.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Some((unzigzag(value), input.get(at + 1..)?));
        }
    }
    None
}

#[inline]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
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
            prop_assert_eq!(read_long(&out), Some((value, &[][..])));
            prop_assert_eq!(read_long(&out[..out.len() - 1]), None);
        }

        #[test]
        fn every_width_round_trips(bits in 0_u32..64, value: i64) {
            let value = value >> bits;
            let mut out = vec![7];
            write_long(&mut out, value);
            let zigzag = (value << 1 ^ value >> 63) as u64;
            prop_assert_eq!(out.len() - 1, (64 - zigzag.leading_zeros()).div_ceil(7).max(1) as usize);
            prop_assert_eq!(read_long(&out[1..]), Some((value, &[][..])));
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
