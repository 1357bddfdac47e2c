//! Networks of users' own: containers find each other by name, and everything else as well. And what is built on that:
//! applications of several containers.

use std::fs;
use std::process::{Child, Stdio};

use super::{Docker, IMAGE, until};

/// Says of any name, by datagrams and by connections, that it is at 10.9.8.7. An IPv6 address has nobody.
const RESOLVER: &str = r#"
import socket, threading
def answer(question):
    short = question[:2] + b'\x81\x80' + question[4:6]
    end = question.index(b'\0', 12) + 5
    if question[end - 4:end] != b'\0\1\0\1':
        return short + bytes(6) + question[12:end]
    return short + b'\0\1' + bytes(4) + question[12:end] + b'\xc0\x0c\0\1\0\1\0\0\0\x09\0\4\x0a\x09\x08\x07'
def connections(server):
    while True:
        stream, _ = server.accept()
        with stream:
            answered = answer(stream.recv(4096)[2:])
            stream.sendall(len(answered).to_bytes(2, 'big') + answered)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(('0.0.0.0', 53))
server = socket.create_server(('0.0.0.0', 53))
threading.Thread(target=connections, args=(server,), daemon=True).start()
print('ready', flush=True)
while True:
    question, sender = datagrams.recvfrom(4096)
    datagrams.sendto(answer(question), sender)
"#;

/// A client and a server, as users write them. busybox is linked statically: only its nslookup finds names.
const COMPOSE: &str = r#"
version: "2.4"
services:
  web:
    image: busybox
    runtime: koya
    command: sh -c 'echo "from the web" > /www/page && exec httpd -f -p 80 -h /www'
    tmpfs: /www
    healthcheck: { test: "nc -w 9 127.0.0.1 80 < /dev/null", interval: 2s, timeout: 30s, retries: 30 }
  client:
    image: busybox
    runtime: koya
    environment: { GREETING: hello }
    volumes: [ "results:/results" ]
    command: >
      sh -c 'echo $$GREETING; at=$$(nslookup web | sed -n "/^Name/,$$ s/^Address: //p");
      printf "GET /page HTTP/1.0\r\n\r\n" | nc -w 60 $$at 80 | tail -n 1 | tee /results/page; exit 3'
    depends_on: { web: { condition: service_healthy } }
volumes: { results: {} }
"#;

/// What stands in for the name servers of the world, until it is dropped.
struct Resolver(Child);

impl Resolver {
    fn new(engine: &Docker) -> Self {
        let mut python = engine.inside("python3");
        python.args(["-c", RESOLVER]).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn containers_find_each_other_by_name(engine: &Docker) {
    engine.done(&["network", "create", "--subnet", "10.88.7.0/24", "lab"]);
    let _world = Resolver::new(engine);
    let line = format!(
        "run --detach --name server --runtime koya --network lab --network-alias alias {IMAGE} sh -c"
    );
    let mut words: Vec<_> = line.split_whitespace().collect();
    words.push("echo served > /tmp/page; exec httpd -f -p 80 -h /tmp");
    engine.done(&words);
    // Neither takes port 53 away, which is for a name server in a container.
    let script = "at() { nslookup $1 | sed -n '/^Name/,$ s/^Address: //p'; }; \
                  printf 'GET /page HTTP/1.0\\r\\n\\r\\n' | nc -w 60 $(at alias) 80 | tail -n 1; at server; \
                  at far.example; cat /etc/resolv.conf; \
                  (nc -l -p 53 & sleep 1; kill $!) 2>&1; \
                  printf '\\000\\035\\001\\002\\001\\000\\000\\001\\000\\000\\000\\000\\000\\000\\003far\\007example\\000\\000\\001\\000\\001' \
                  | nc -w 30 127.0.0.11 53 | tail -c 4 | od -A n -t u1";
    let said = ["runc", "koya"].map(|runtime| {
        let line = format!("run --rm --runtime {runtime} --network lab --dns 10.88.7.1 {IMAGE} sh -c");
        let mut words: Vec<_> = line.split_whitespace().collect();
        words.push(script);
        engine.said(&words)
    });
    let [runc, koya] = said;
    assert!(koya.out.starts_with("served\n10.88.7.2\n10.9.8.7\n"), "{koya:?}");
    assert!(koya.out.trim_end().ends_with("10   9   8   7"), "{koya:?}");
    assert_eq!(koya, runc);
    engine.done(&["rm", "--force", "server"]);
    engine.done(&["network", "rm", "lab"]);
    until("something is left of containers with names", || {
        engine.is_nothing_left()
    });
}

/// What a container sees of a network that comes while it runs, once it has: the way to it and beyond, and who is there by
/// name.
const COMES: &str = "n=0; until [ \"$(ip route | grep -c eth1)\" -ge 2 ] && nslookup server | grep -q 10[.]88[.]8 || [ $n = 100 ]; do \
                     n=$((n + 1)); sleep 0.2; done; \
                     ip route | sed 's/172[.]17[.].*/BRIDGE/' | sort; \
                     at=$(nslookup server | sed -n '/^Name/,$ s/^Address: //p'); echo $at; \
                     printf 'GET /page HTTP/1.0\\r\\n\\r\\n' | nc -w 60 $at 80 | tail -n 1";
/// What it sees when that has gone.
const GOES: &str = "n=0; until [ ! -e /sys/class/net/eth1 ] && ip route | grep -q default || [ $n = 100 ]; do \
                    n=$((n + 1)); sleep 0.2; done; \
                    ls /sys/class/net; ip route | sed 's/172[.]17[.].*/BRIDGE/' | sort";

pub(super) fn a_container_that_runs_joins_a_network_and_leaves_it(engine: &Docker) {
    engine.done(&["network", "create", "--subnet", "10.88.8.0/24", "alpha"]);
    let mut words = vec![
        "run",
        "--detach",
        "--name",
        "server",
        "--runtime",
        "koya",
        "--network",
        "alpha",
    ];
    words.extend(["--ip", "10.88.8.5", IMAGE, "sh", "-c"]);
    words.push("echo served > /tmp/page; exec httpd -f -p 80 -h /tmp");
    engine.done(&words);
    let said = ["runc", "koya"].map(|name| {
        // As most begin: on the bridge that all have in common, where nobody has a name.
        engine.done(&[
            "run",
            "--detach",
            "--name",
            name,
            "--runtime",
            name,
            IMAGE,
            "sleep",
            "1000",
        ]);
        let comes = |address| {
            engine.done(&["network", "connect", "--ip", address, "alpha", name]);
            engine.done(&["exec", name, "sh", "-c", COMES])
        };
        let first = comes("10.88.8.9");
        engine.done(&["network", "disconnect", "alpha", name]);
        let gone = engine.done(&["exec", name, "sh", "-c", GOES]);
        let again = comes("10.88.8.10");
        engine.done(&["rm", "--force", name]);
        [first, gone, again]
    });
    let [runc, koya] = said;
    assert_eq!(koya, runc);
    assert!(koya[0].contains("default via 10.88.8.1 dev eth1"), "{koya:?}");
    assert!(
        koya[0].ends_with("10.88.8.5\nserved\n") && koya[2].contains("src 10.88.8.10"),
        "{koya:?}"
    );
    engine.done(&["rm", "--force", "server"]);
    engine.done(&["network", "rm", "alpha"]);
    until("something is left of containers of networks", || {
        engine.is_nothing_left()
    });
}

pub(super) fn an_application_of_several_containers_runs(engine: &Docker) {
    let folder = engine.home.path("application");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("docker-compose.yml"), COMPOSE).unwrap();
    let compose = |words: &str| {
        let mut command = engine.without_settings("docker-compose");
        let socket = format!("unix://{}", engine.home.path("socket").display());
        command.current_dir(&folder).env("DOCKER_HOST", socket);
        let output = command.args(words.split(' ')).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker-compose {words}: {errors}");
    };
    compose("up --detach");
    assert_eq!(engine.done(&["wait", "application_client_1"]), "3\n");
    let said = engine.done(&["logs", "application_client_1"]);
    assert_eq!(said, "hello\nfrom the web\n");
    let health = [
        "inspect",
        "--format",
        "{{.State.Health.Status}}",
        "application_web_1",
    ];
    assert_eq!(engine.done(&health), "healthy\n");
    compose("down --volumes --timeout 1");
    assert_eq!(engine.done(&["ps", "--all", "--quiet"]), "");
    until("something is left of an application", || engine.is_nothing_left());
}
