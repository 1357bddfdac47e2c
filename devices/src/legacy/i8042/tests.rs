#![allow(clippy::arithmetic_side_effects)]

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::virtio::testing::CountingLine;

struct Bench {
    controller: I8042,
    line: Arc<CountingLine>,
    resets: Arc<AtomicU32>,
}

fn bench() -> Bench {
    let (line, resets) = (CountingLine::shared(), Arc::new(AtomicU32::new(0)));
    let counter = resets.clone();
    let reset = move || {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    Bench {
        controller: I8042::new(line.clone(), Arc::new(reset)),
        line,
        resets,
    }
}

impl Bench {
    fn status(&mut self) -> u8 {
        let mut data = [0];
        self.controller.read(4, &mut data);
        data[0]
    }

    fn read(&mut self) -> u8 {
        let mut data = [0];
        self.controller.read(0, &mut data);
        data[0]
    }

    /// Reads as the guest does: while the status says that there is something.
    fn read_all(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| (self.status() & 1 != 0).then(|| self.read()))
            .take(100)
            .collect()
    }

    /// Sends a command with parameters, and reads the answer.
    fn command(&mut self, command: u8, parameters: &[u8]) -> Vec<u8> {
        self.controller.write(4, &[command]);
        for parameter in parameters {
            assert_ne!(self.status() & 8, 0, "a parameter is expected");
            self.controller.write(0, &[*parameter]);
        }
        self.read_all()
    }

    fn keyboard(&mut self, bytes: &[u8]) -> Vec<u8> {
        let send = |byte: &u8| {
            self.controller.write(0, &[*byte]);
            self.read_all()
        };
        bytes.iter().flat_map(send).collect()
    }
}

#[test]
fn pulling_the_reset_line_resets() {
    for (port, writes) in [(4, &[0xfe_u8][..]), (4, &[0xf0]), (4, &[0xd1])] {
        let mut bench = bench();
        for value in writes {
            bench.controller.write(port, &[*value]);
        }
        if writes == [0xd1] {
            assert_eq!(bench.resets.load(Ordering::SeqCst), 0);
            bench.controller.write(0, &[0x02]);
        }
        assert_eq!(bench.resets.load(Ordering::SeqCst), 1, "{writes:x?}");
        assert_eq!(bench.controller.take_metrics().reset_count, 1);
    }
    let mut bench = bench();
    bench.command(0xff, &[]);
    bench.command(0xd1, &[0x03]);
    bench.controller.write(0, &[0xfe]);
    bench.controller.write(4, &[0xfe, 0xfe]);
    assert_eq!(bench.resets.load(Ordering::SeqCst), 0);
}

#[test]
fn what_linux_probes_is_answered_at_once() {
    let mut bench = bench();
    assert_eq!(bench.read_all(), [0; 0]);
    assert_eq!(bench.command(0xaa, &[]), [0x55]);
    assert_eq!(bench.command(0xab, &[]), [0x00]);
    assert_eq!(bench.command(0x20, &[]), [0x05]);
    assert_eq!(bench.command(0x60, &[0x74]), [0; 0]);
    assert_eq!(bench.command(0x20, &[]), [0x74]);
    assert_eq!(bench.command(0xd0, &[]), [0x01]);
    // No auxiliary device: the loop test's answer lacks its mark, the port test fails, it cannot be enabled.
    bench.controller.write(4, &[0xd3]);
    bench.controller.write(0, &[0x5a]);
    assert_eq!(bench.status() & 0x21, 0x01);
    assert_eq!(bench.command(0xa9, &[]), [0x01]);
    bench.command(0xa8, &[]);
    assert_eq!(bench.command(0x20, &[])[0] & 0x20, 0x20);
    assert_eq!(bench.line.take(), 0, "answers of the controller are polled for");
}

#[test]
fn the_keyboard_answers_each_command_with_interrupts() {
    let mut bench = bench();
    assert_eq!(bench.keyboard(&[0xff]), [0xfa, 0xaa]);
    assert_eq!(bench.line.take(), 2);
    assert_eq!(bench.keyboard(&[0xf2]), [0xfa, 0xab, 0x83]);
    assert_eq!(bench.line.take(), 3);
    assert_eq!(bench.keyboard(&[0xed, 0x07, 0xf3, 0x00, 0xf4]), [0xfa; 5]);
    assert_eq!(
        bench.keyboard(&[0xf0, 0x02, 0xf0, 0x00]),
        [0xfa, 0xfa, 0xfa, 0xfa, 0x02]
    );
    assert_eq!(bench.keyboard(&[0xee]), [0xee]);
}

#[test]
fn ctrl_alt_del_is_typed_and_released() {
    let mut bench = bench();
    bench.controller.trigger_ctrl_alt_del().unwrap();
    assert_eq!(bench.line.take(), 1);
    assert_eq!(
        bench.read_all(),
        [0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14]
    );
    assert_eq!(bench.line.take(), 10, "one for each further byte");
    bench.command(0x60, &[0x45]);
    bench.controller.trigger_ctrl_alt_del().unwrap();
    assert_eq!(
        bench.read_all(),
        [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d],
        "translated to set 1"
    );
}

#[test]
fn a_guest_that_does_not_read_gets_no_more_than_the_buffer_holds() {
    let mut bench = bench();
    bench.controller.trigger_ctrl_alt_del().unwrap();
    assert!(matches!(
        bench.controller.trigger_ctrl_alt_del(),
        Err(I8042Error::BufferFull)
    ));
    for _ in 0..100 {
        bench.controller.write(0, &[0xf4]);
    }
    assert_eq!(bench.read_all().len(), 16);
    bench.controller.trigger_ctrl_alt_del().unwrap();
}

#[test]
fn a_disabled_keyboard_holds_its_keys_back() {
    let mut bench = bench();
    bench.command(0xad, &[]);
    bench.controller.trigger_ctrl_alt_del().unwrap();
    assert_eq!(bench.line.take(), 0);
    assert_eq!(bench.read_all(), [0; 0]);
    assert_eq!(bench.command(0xaa, &[]), [0x55], "answers still come");
    bench.controller.write(4, &[0xae]);
    assert_eq!(bench.line.take(), 1);
    assert_eq!(bench.read_all().len(), 11);
    // Without its interrupt the keyboard can still be polled.
    bench.command(0x60, &[0x04]);
    bench.line.take();
    bench.controller.trigger_ctrl_alt_del().unwrap();
    assert_eq!(bench.line.take(), 0);
    assert_eq!(bench.read_all().len(), 11);
}

#[test]
fn an_answer_does_not_overwrite_keys_that_wait() {
    let mut bench = bench();
    bench.controller.trigger_ctrl_alt_del().unwrap();
    bench.controller.write(4, &[0x20]);
    assert_eq!(bench.read(), 0x05);
    assert_eq!(bench.read_all().len(), 11);
}

#[test]
fn the_missing_timer_looks_expired() {
    let mut data = [0];
    bench().controller.read(1, &mut data);
    assert_eq!(data, [0x20]);
}

#[test]
fn accesses_of_other_sizes_and_ports_are_counted_and_dropped() {
    let mut bench = bench();
    let mut data = [0; 2];
    bench.controller.read(0, &mut data);
    bench.controller.read(2, &mut data[..1]);
    bench.controller.write(3, &[1]);
    bench.controller.write(0, &[1, 2, 3, 4]);
    assert_eq!(data, [0; 2]);
    let metrics = bench.controller.take_metrics();
    assert_eq!((metrics.missed_read_count, metrics.missed_write_count), (2, 2));
    assert_eq!((metrics.read_count, metrics.write_count), (0, 0));
}

#[test]
fn a_restored_controller_goes_on_typing() {
    let mut bench = bench();
    bench.controller.trigger_ctrl_alt_del().unwrap();
    bench.read();
    bench.controller.write(4, &[0x60]);
    let json = serde_json::to_string(&bench.controller.save()).unwrap();
    let mut restored = self::bench();
    restored
        .controller
        .restore(&serde_json::from_str(&json).unwrap())
        .unwrap();
    assert_eq!(restored.line.take(), 1);
    assert_eq!(restored.controller.save(), bench.controller.save());
    restored.controller.write(0, &[0x47]);
    assert_eq!(restored.read_all(), bench.read_all());
    assert_eq!(restored.command(0x20, &[]), [0x47]);

    let mut bad = bench.controller.save();
    bad.keyboard.buffer = vec![0; 17];
    assert!(restored.controller.restore(&bad).is_err());
    let bad = I8042State {
        version: 7,
        ..bench.controller.save()
    };
    assert!(restored.controller.restore(&bad).is_err());
}
