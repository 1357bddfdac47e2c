//! The device configuration space as bytes (virtio 1.2 §2.5).

/// Copies the part of `config` that begins at `offset` into `data`, as far as both reach. Bytes beyond the end of
/// `config` stay as they are.
pub fn read(config: &[u8], offset: u64, data: &mut [u8]) {
    let Some(source) = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.get(offset..))
    else {
        return;
    };
    for (to, from) in data.iter_mut().zip(source) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_bytes_inside_the_configuration_are_copied() {
        let config = [1, 2, 3, 4];
        for (offset, expected) in [
            (0, [1, 2, 3, 4]),
            (2, [3, 4, 9, 9]),
            (4, [9; 4]),
            (5, [9; 4]),
            (u64::MAX, [9; 4]),
        ] {
            let mut data = [9; 4];
            super::read(&config, offset, &mut data);
            assert_eq!(data, expected, "{offset}");
        }
    }
}
