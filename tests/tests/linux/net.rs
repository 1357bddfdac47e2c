//! virtio-net over a tap, in a network namespace of the test's own. The guest is described through the API alone.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::guest::Guest;
use crate::report::{Report, Shared};
use crate::running::Running;
use crate::support::{MIB, isolate, noise, run, visitor};

const HOST: &str = "172.31.250.1";
const GUEST: &str = "172.31.250.2";
const GUEST_MAC: &str = "06:00:ac:1f:fa:02";
/// Sent each way.
const BULK: u64 = 64 * MIB;
/// Sent each way to see a limit work.
const SAMPLE: u64 = 2 * MIB;
/// The limit, in bytes a second.
const LIMIT: u64 = 256 << 10;

/// Bits of the virtio network device (virtio 1.2 §5.1.3).
const CSUM: usize = 0;
const GUEST_CSUM: usize = 1;
const GUEST_TSO4: usize = 7;
const HOST_TSO4: usize = 11;
const MRG_RXBUF: usize = 15;

const SCRIPT: &str = r#"
host=172.31.250.1
say mac $(cat /sys/class/net/eth0/address)
for device in /sys/bus/virtio/devices/*; do
    if [ $(cat $device/device) = 0x0001 ]; then say features $(cat $device/features); fi
done
say ping $(ping -n -q -c 3 -i 0.2 -W 5 $host | grep -o '[0-9]* received')
step pinged
bash -c "cat /dev/vdb > /dev/tcp/$host/9000"
bash -c "cmp /dev/vdb - < /dev/tcp/$host/9001" && say received same
step bulk
sample() {
    bash -c "cat < /dev/tcp/$host/$1 > /dev/null"
    bash -c "head -c 2097152 /dev/vdb > /dev/tcp/$host/$2"
}
sample 9002 9003
step limit
sample 9004 9005
step unlimit
sample 9006 9007
ip link set eth0 address 06:00:00:00:00:99
step spoof
ping -n -q -c 2 -i 0.2 -W 1 $host > /dev/null && say spoofed_ping answered || say spoofed_ping lost
step spoofed
ip link set eth0 address 06:00:ac:1f:fa:02
say honest_ping $(ping -n -q -c 3 -i 0.2 -W 5 $host | grep -o '[0-9]* received')
step tap
ping -n -q -c 1 -W 1 $host > /dev/null && say tapless_ping answered || say tapless_ping lost
step end
"#;

/// What the host saw.
struct Seen {
    report: Report,
    received_same: bool,
    bulk_counters: Vec<u64>,
    /// How long the sample took to the guest and from it: without a limit, with one, and without one again.
    samples: [[Duration; 2]; 3],
    throttled: Vec<u64>,
    /// Frames of the guest that came out of the tap while it used another address.
    spoofed_frames: u64,
    spoofed_count: u64,
    /// After the tap was deleted: the state, and the processor time of a second.
    tapless_state: String,
    tapless_time: Duration,
}

fn seen() -> &'static Seen {
    static SEEN: Shared<Seen> = Shared::new();
    SEEN.get(watch)
}

/// Sends to the guest that connects; how long it took until it had all.
fn send(listener: &TcpListener, bytes: &[u8]) -> Duration {
    let mut stream = visitor(listener);
    let start = Instant::now();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    start.elapsed()
}

/// What the guest that connects sends, and how long it took.
fn receive(listener: &TcpListener) -> (Vec<u8>, Duration) {
    let mut stream = visitor(listener);
    let (start, mut bytes) = (Instant::now(), Vec::new());
    stream.read_to_end(&mut bytes).unwrap();
    (bytes, start.elapsed())
}

/// Frames that came out of the tap.
fn frames_from_guest() -> u64 {
    let links: Value = serde_json::from_str(&run("ip -s -j link show tap0")).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

fn limit(guest: &Running, bytes_per_second: u64) {
    let bucket = json!({ "bandwidth": { "size": bytes_per_second / 2, "refill_time": 500 } });
    let update = json!({ "iface_id": "eth0", "rx_rate_limiter": bucket, "tx_rate_limiter": bucket });
    guest.patch("/network-interfaces/eth0", &update);
}

fn counters(guest: &Running, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| guest.counter("net_eth0", name)).collect()
}

fn watch() -> Seen {
    isolate();
    run("ip tuntap add tap0 mode tap");
    run(&format!("ip address add {HOST}/30 dev tap0"));
    run("ip link set tap0 up");
    let listeners: Vec<_> = (9000..9008)
        .map(|port| TcpListener::bind((HOST, port)).unwrap())
        .collect();
    let bulk = noise(BULK);
    let sample = &bulk[..usize::try_from(SAMPLE).unwrap()];

    let guest = Guest::debian().machine(1, 512);
    let data = guest.scratch.file("data", &bulk);
    let card = json!([{ "iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": GUEST_MAC }]);
    let mut guest = guest
        .drive("data", &data, json!({ "is_read_only": true }))
        .section("network-interfaces", card)
        .argument(&format!("ip={GUEST}::{HOST}:255.255.255.252::eth0:off"))
        .script(SCRIPT)
        .start_by_api();

    guest.at_step("pinged", |_| run(&format!("ping -n -q -c 3 -i 0.2 -W 5 {GUEST}")));
    let (received, from_guest) = receive(&listeners[0]);
    let to_guest = send(&listeners[1], &bulk);
    println!("64 MiB from the guest in {from_guest:?}, to it in {to_guest:?}");
    let names = [
        "rx_bytes_count",
        "rx_packets_count",
        "tx_bytes_count",
        "tx_packets_count",
    ];
    let bulk_counters = guest.at_step("bulk", |guest| counters(guest, &names));

    let measure = |pair: &[TcpListener]| [send(&pair[0], sample), receive(&pair[1]).1];
    let free = measure(&listeners[2..4]);
    guest.at_step("limit", |guest| limit(guest, LIMIT));
    let limited = measure(&listeners[4..6]);
    let throttled = counters(
        &guest,
        &["rx_rate_limiter_throttled", "tx_rate_limiter_throttled"],
    );
    guest.at_step("unlimit", |guest| limit(guest, 0));
    let free_again = measure(&listeners[6..8]);

    let honest = guest.at_step("spoof", |_| frames_from_guest());
    let with_spoofed = guest.at_step("spoofed", |_| frames_from_guest());
    let spoofed_count = guest.counter("net_eth0", "tx_spoofed_mac_count");
    guest.at_step("tap", |_| run("ip link delete tap0"));
    guest.await_step("end");
    let before = guest.event_loop_time();
    thread::sleep(Duration::from_secs(1));
    let tapless_time = guest.event_loop_time() - before;
    let tapless_state = guest.state();
    guest.go_on();
    Seen {
        received_same: received == bulk,
        bulk_counters,
        samples: [free, limited, free_again],
        throttled,
        spoofed_frames: with_spoofed - honest,
        spoofed_count,
        tapless_state,
        tapless_time,
        report: guest.finish(),
    }
}

#[test]
fn the_guest_has_the_mac_of_guest_mac() {
    assert_eq!(seen().report.value("mac"), GUEST_MAC);
}

/// The host's ping succeeded, or the guest would not have been let on.
#[test]
fn ping_both_ways() {
    assert_eq!(seen().report.value("ping"), "3 received");
}

#[test]
fn tcp_64_mib_each_way_arrive_unchanged() {
    let Seen {
        report,
        received_same,
        ..
    } = seen();
    assert!(received_same, "what the guest sent is not what came");
    assert_eq!(report.value("received"), "same");
}

/// Segmentation is left to the host: frames are, on the average, of several segments.
#[test]
fn offloads_checksum_tso_and_mergeable_buffers_are_in_use() {
    let Seen {
        report,
        bulk_counters,
        ..
    } = seen();
    let negotiated: Vec<_> = report.value("features").chars().map(|bit| bit == '1').collect();
    for feature in [CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF] {
        assert!(
            negotiated[feature],
            "feature {feature} is not on: {}",
            report.value("features")
        );
    }
    let [rx_bytes, rx_frames, tx_bytes, tx_frames] = bulk_counters[..] else {
        panic!()
    };
    assert!(
        rx_bytes > 3000 * rx_frames && tx_bytes > 3000 * tx_frames,
        "{bulk_counters:?}"
    );
}

#[test]
fn metrics_of_interfaces_count() {
    let [rx_bytes, rx_frames, tx_bytes, tx_frames] = seen().bulk_counters[..] else {
        panic!()
    };
    for (bytes, frames) in [(rx_bytes, rx_frames), (tx_bytes, tx_frames)] {
        assert!(
            (BULK..2 * BULK).contains(&bytes) && frames > 1000,
            "{bytes} bytes in {frames} frames"
        );
    }
}

#[test]
fn patch_network_interfaces_changes_the_rate_both_ways() {
    let [free, limited, free_again] = seen().samples;
    println!("to the guest and from it: free {free:?}, limited {limited:?}, free again {free_again:?}");
    // The bucket is full at first: half a second less.
    let least = Duration::from_secs(SAMPLE / LIMIT) - Duration::from_millis(600);
    for way in 0..2 {
        assert!(limited[way] > least, "limited: {limited:?}");
        assert!(limited[way] > 2 * free[way], "free {free:?}, limited {limited:?}");
        assert!(
            limited[way] > 2 * free_again[way],
            "limited {limited:?}, free again {free_again:?}"
        );
    }
    assert!(
        seen().throttled.iter().all(|count| *count > 0),
        "{:?}",
        seen().throttled
    );
}

#[test]
fn frames_with_a_spoofed_address_do_not_leave() {
    let Seen {
        report,
        spoofed_frames,
        spoofed_count,
        ..
    } = seen();
    assert_eq!((report.value("spoofed_ping"), *spoofed_frames), ("lost", 0));
    assert!(*spoofed_count > 0);
    assert_eq!(report.value("honest_ping"), "3 received");
}

#[test]
fn a_tap_deleted_under_a_running_guest_leaves_the_monitor_healthy() {
    let Seen {
        report,
        tapless_state,
        tapless_time,
        ..
    } = seen();
    assert_eq!(
        (report.value("tapless_ping"), tapless_state.as_str()),
        ("lost", "Running")
    );
    assert!(
        *tapless_time < Duration::from_millis(300),
        "busy for {tapless_time:?} of a second"
    );
}
