//! Containers whose root is nobody outside.

use serde_json::{Value, json};

use crate::place::{Place, process, shell};

fn mapped(script: &str) -> Value {
    let mut config = shell(script);
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "user" }));
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    config["linux"]["uidMappings"] = mapping.clone();
    config["linux"]["gidMappings"] = mapping;
    config
}

const MAP: &str = "         0     100000      65536\n";

#[test]
fn the_first_process_is_mapped() {
    let place = Place::new();
    let script = "id -u; cat /proc/self/uid_map";
    assert_eq!(place.run("room", &mapped(script)), (0, format!("0\n{MAP}")));
    place.assert_gone("room");
}

#[test]
fn a_further_process_is_mapped_too() {
    let place = Place::new();
    place
        .client
        .create(place.request("room", &mapped("sleep 1000")))
        .unwrap();
    place.client.start("room").unwrap();
    let script = "id -u; cat /proc/self/uid_map; [ \"$(readlink /proc/self/ns/user)\" = \"$(readlink /proc/1/ns/user)\" ]";
    let (code, output) = place.exec("room", "x", &process(&["sh", "-c", script]), b"");
    assert_eq!(
        (code, String::from_utf8(output).unwrap()),
        (0, format!("0\n{MAP}"))
    );
}
