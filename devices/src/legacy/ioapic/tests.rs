#![allow(clippy::arithmetic_side_effects)]

use std::sync::{Arc, Mutex};

use super::*;

type Route = (u32, Option<MsiMessage>);

#[derive(Clone, Default)]
struct Router {
    calls: Arc<Mutex<Vec<Route>>>,
    broken: Arc<Mutex<bool>>,
}

impl MsiRouter for Router {
    fn route(&self, pin: u32, message: Option<MsiMessage>) -> io::Result<()> {
        if *self.broken.lock().unwrap() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.calls.lock().unwrap().push((pin, message));
        Ok(())
    }
}

impl Router {
    fn take(&self) -> Vec<Route> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

fn ioapic() -> (IoApic, Router) {
    let router = Router::default();
    (IoApic::new(Box::new(router.clone())), router)
}

fn write(ioapic: &mut IoApic, register: u8, value: u32) {
    ioapic.write(SELECT, &u32::from(register).to_le_bytes());
    ioapic.write(WINDOW, &value.to_le_bytes());
}

fn read(ioapic: &mut IoApic, register: u8) -> u32 {
    let mut data = [0; 4];
    ioapic.write(SELECT, &u32::from(register).to_le_bytes());
    ioapic.read(WINDOW, &mut data);
    u32::from_le_bytes(data)
}

fn low(pin: u8) -> u8 {
    0x10 + 2 * pin
}

fn message(address: u64, data: u32) -> Option<MsiMessage> {
    Some(MsiMessage { address, data })
}

#[test]
fn after_reset_it_has_24_masked_pins() {
    let (mut ioapic, router) = ioapic();
    assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
    for pin in 0..24 {
        assert_eq!(read(&mut ioapic, low(pin)), 0x1_0000);
        assert_eq!(read(&mut ioapic, low(pin) + 1), 0);
    }
    for register in [0x03, 0x0f, 0x40, 0xff] {
        write(&mut ioapic, register, u32::MAX);
        assert_eq!(read(&mut ioapic, register), 0, "{register:#x}");
    }
    write(&mut ioapic, 0, u32::MAX);
    assert_eq!(read(&mut ioapic, 0), 0x0f00_0000);
    write(&mut ioapic, 1, 0);
    assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
    assert_eq!(router.take(), []);
}

#[test]
fn an_unmasked_pin_is_routed_to_the_message_of_its_entry() {
    let (mut ioapic, router) = ioapic();
    write(&mut ioapic, low(4) + 1, 0x0300_0000);
    write(&mut ioapic, low(4), 0x31);
    assert_eq!(router.take(), [(4, message(0xfee0_3000, 0x31))]);
    // Lowest priority, logical destination, level-triggered, active low.
    write(&mut ioapic, low(5) + 1, 0xff00_0000);
    write(&mut ioapic, low(5), 0xa942);
    assert_eq!(router.take(), [(5, message(0xfeef_f004, 0xc142))]);
    write(&mut ioapic, low(4), 0x1_0031);
    assert_eq!(router.take(), [(4, None)]);
}

#[test]
fn the_router_is_told_only_when_the_message_changes() {
    let (mut ioapic, router) = ioapic();
    for value in [0x1_0031, 0x1_0032, 0x1_8000] {
        write(&mut ioapic, low(1), value);
        write(&mut ioapic, low(1) + 1, value << 16);
    }
    assert_eq!(router.take(), [], "a masked pin");
    write(&mut ioapic, low(1), 0x31);
    write(&mut ioapic, low(1), 0x31);
    // Polarity does not show in a message; reserved bits are not kept.
    write(&mut ioapic, low(1), 0xfffe_2031);
    write(&mut ioapic, low(1) + 1, 0x00ff_ffff);
    assert_eq!(router.take().len(), 2, "first destination 0x00 after 0x80");
    assert_eq!(read(&mut ioapic, low(1)), 0x2031);
    assert_eq!(read(&mut ioapic, low(1) + 1), 0);
}

#[test]
fn entries_that_cannot_be_delivered_are_not_routed() {
    let (mut ioapic, router) = ioapic();
    // Vectors below 16, reserved modes, ExtINT.
    for value in [0x00, 0x0f, 0x10f, 0x331, 0x631, 0x731] {
        write(&mut ioapic, low(0), value);
        assert_eq!(router.take(), [], "{value:#x}");
    }
    // An NMI needs no vector.
    write(&mut ioapic, low(0), 0x400);
    assert_eq!(router.take(), [(0, message(0xfee0_0000, 0x400))]);
}

#[test]
fn a_refused_route_is_tried_again() {
    let (mut ioapic, router) = ioapic();
    *router.broken.lock().unwrap() = true;
    write(&mut ioapic, low(2), 0x40);
    *router.broken.lock().unwrap() = false;
    write(&mut ioapic, low(2), 0x40);
    assert_eq!(router.take(), [(2, message(0xfee0_0000, 0x40))]);
    assert_eq!(
        ioapic.take_metrics(),
        IoApicMetrics {
            route_count: 1,
            route_fails: 1
        }
    );
}

#[test]
fn remote_irr_lasts_from_acceptance_to_end_of_interrupt() {
    const IRR: u32 = 1 << 14;
    let (mut ioapic, _) = ioapic();
    write(&mut ioapic, low(3), 0x8050);
    write(&mut ioapic, low(7), 0x50);
    ioapic.accepted(3);
    ioapic.accepted(7);
    ioapic.accepted(99);
    assert_ne!(read(&mut ioapic, low(3)) & IRR, 0);
    assert_eq!(read(&mut ioapic, low(7)) & IRR, 0, "an edge has none");
    write(&mut ioapic, low(3), 0x8050);
    assert_ne!(read(&mut ioapic, low(3)) & IRR, 0, "read-only");
    assert_eq!(ioapic.eoi(0x51), 0);
    assert_eq!(ioapic.eoi(0x50), 1 << 3);
    assert_eq!(read(&mut ioapic, low(3)) & IRR, 0);
    ioapic.accepted(3);
    ioapic.write(EOI, &0x50_u32.to_le_bytes());
    assert_eq!(read(&mut ioapic, low(3)) & IRR, 0);
    ioapic.accepted(3);
    write(&mut ioapic, low(3), 0x50);
    assert_eq!(read(&mut ioapic, low(3)) & IRR, 0, "switching to edge clears it");
}

#[test]
fn accesses_of_other_sizes_do_no_harm() {
    let (mut ioapic, router) = ioapic();
    ioapic.write(SELECT, &[low(0)]);
    for len in [1, 2, 8] {
        ioapic.write(WINDOW, &vec![0x40; len]);
        let mut data = vec![0; len];
        ioapic.read(WINDOW, &mut data);
        assert_eq!(data, vec![0; len]);
    }
    assert_eq!(router.take(), []);
    let mut select = [0; 4];
    ioapic.read(SELECT, &mut select);
    assert_eq!(select, [low(0), 0, 0, 0]);
}

#[test]
fn a_restored_table_is_routed_again() {
    let (mut ioapic, _) = ioapic();
    write(&mut ioapic, 0, 0x0500_0000);
    write(&mut ioapic, low(4), 0x31);
    write(&mut ioapic, low(9), 0x8055);
    ioapic.accepted(9);
    let json = serde_json::to_string(&ioapic.save()).unwrap();
    let (mut restored, router) = self::ioapic();
    restored.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(
        router.take(),
        [(4, message(0xfee0_0000, 0x31)), (9, message(0xfee0_0000, 0xc055))]
    );
    assert_eq!(restored.save(), ioapic.save());
    write(&mut restored, low(4), 0x31);
    assert_eq!(router.take(), [], "already routed");
}

#[test]
fn impossible_states_are_refused() {
    let (mut ioapic, router) = ioapic();
    let good = ioapic.save();
    for bad in [
        IoApicState {
            version: 0,
            ..good.clone()
        },
        IoApicState {
            id: 16,
            ..good.clone()
        },
        IoApicState {
            entries: vec![0; 25],
            ..good.clone()
        },
        IoApicState {
            entries: Vec::new(),
            ..good.clone()
        },
    ] {
        assert!(ioapic.restore(&bad).is_err(), "{bad:?}");
    }
    ioapic
        .restore(&IoApicState {
            entries: vec![u64::MAX; 24],
            ..good.clone()
        })
        .unwrap();
    assert_eq!(router.take(), [], "all masked");
    *router.broken.lock().unwrap() = true;
    assert!(
        ioapic
            .restore(&IoApicState {
                entries: vec![0x40; 24],
                ..good
            })
            .is_err()
    );
}
