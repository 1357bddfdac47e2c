//! Bit fields of CPUID registers.

use std::ops::RangeInclusive;

/// Puts `value` into the bits `range` of `register`; a value too large for the field becomes its largest.
pub(super) fn set_field(register: &mut u32, range: RangeInclusive<u32>, value: u32) {
    let start = *range.start();
    let width = range.end().wrapping_sub(start).wrapping_add(1);
    let largest = u32::MAX.wrapping_shr(32_u32.wrapping_sub(width));
    let mask = largest.wrapping_shl(start);
    *register = (*register & !mask) | value.min(largest).wrapping_shl(start);
}

/// The bits `range` of `register`.
pub(super) fn field(register: u32, range: RangeInclusive<u32>) -> u32 {
    let start = *range.start();
    let width = range.end().wrapping_sub(start).wrapping_add(1);
    register.wrapping_shr(start) & u32::MAX.wrapping_shr(32_u32.wrapping_sub(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_keeps_its_neighbours() {
        let mut register = u32::MAX;
        set_field(&mut register, 8..=15, 0x12);
        assert_eq!(register, 0xffff_12ff);
        assert_eq!(field(register, 8..=15), 0x12);
        set_field(&mut register, 0..=31, 5);
        assert_eq!((register, field(register, 0..=31)), (5, 5));
        set_field(&mut register, 28..=31, 99);
        assert_eq!(register, 0xf000_0005);
    }
}
