//! Somebody at a terminal, who talks to containers through an engine.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use koya_tests::terminal::{Settings, Terminal};
use koya_tests::vm::{PATIENCE, Vm};

/// Answers line by line. `size R C` waits for a window of that size; `watch` has it tell of each change, and of Ctrl-C.
pub const LISTENER: &str = r#"
    while :; do
        until read -r line; do :; done
        case $line in
        size*) until test "$line" = "size $(stty size 2> /dev/null)"; do sleep 0.1; done; echo right;;
        watch) trap 'echo now $(stty size)' WINCH; trap 'echo interrupted; exit 5' INT; tty; echo watching;;
        *) echo "heard $line";;
        esac
    done"#;
/// Ends its input by Ctrl-D, and itself by Ctrl-C.
const READER: &str = "echo begun; cat; echo ended; exec sleep 1000";
const CTRL_C: &[u8] = b"\x03";
const CTRL_D: &[u8] = b"\x04";
/// Leaves a container to itself: Ctrl-P, Ctrl-Q. Engines do not know them unless they come one by one.
const LEAVE: &[u8] = b"\x10\x11";

/// A client of an engine on a terminal.
struct Session {
    terminal: Terminal,
    before: Settings,
    client: Vm,
}

impl Session {
    /// On a window of this size.
    fn begin(command: Command, rows: u16, columns: u16) -> Self {
        let terminal = Terminal::new();
        terminal.resize(rows, columns);
        let before = terminal.settings();
        let client = terminal.run(command);
        // What is typed before that, the host's terminal would show as well.
        terminal.expect_raw();
        Self {
            terminal,
            before,
            client,
        }
    }

    /// Types `keys`, and waits for the answer.
    fn says(&mut self, keys: &[u8], answer: &str) {
        self.terminal.type_in(keys);
        self.terminal.expect(answer);
    }

    fn resized(&self, rows: u16, columns: u16) {
        self.terminal.resize(rows, columns);
        self.terminal.expect(&format!("now {rows} {columns}\r\n"));
    }

    /// Types `keys`, which end the client with this code; all that its screen has shown.
    fn ends(mut self, keys: &[u8], code: i32) -> String {
        self.terminal.press(keys);
        let begun = Instant::now();
        while self.client.is_running() {
            let shown = self.terminal.screen.text();
            assert!(begun.elapsed() < PATIENCE, "{keys:?} do not end it: {shown}");
            thread::sleep(Duration::from_millis(20));
        }
        let status = self.client.wait();
        let shown = self.terminal.screen.text();
        assert_eq!(status.code(), Some(code), "{status}: {shown}");
        assert_eq!(self.terminal.settings(), self.before, "it is not restored");
        shown
    }
}

/// An engine's client.
pub struct Client<'a> {
    /// It with these words.
    pub command: &'a dyn Fn(&[&str]) -> Command,
    /// How it ends when somebody leaves what he has attached to.
    pub leaves: i32,
    /// How it ends when he has attached to a container that ends with 5.
    pub stays: i32,
}

/// Talks with a container `name` that is made with these words, which end in a program that is [`LISTENER`]: who has begun
/// it, who enters it, who attaches to it. All that the screens have shown; the container has ended with 5 then.
pub fn conversation(client: &Client, name: &str, run: &[&str]) -> Vec<String> {
    let engine = client.command;
    let mut first = Session::begin(engine(run), 33, 101);
    first.says(b"size 33 101\n", "right\r\n");
    first.says(b"watch\n", "watching\r\n");
    first.resized(40, 120);
    first.says(b"typed by hand\n", "heard typed by hand\r\n");
    // It goes on without whoever has begun it.
    let mut shown = vec![first.ends(LEAVE, 0)];
    let listener = ["exec", "-it", name, "sh", "-c", LISTENER];
    let mut inside = Session::begin(engine(&listener), 25, 81);
    inside.says(b"size 25 81\n", "right\r\n");
    inside.says(b"watch\n", "watching\r\n");
    inside.resized(50, 99);
    shown.push(inside.ends(CTRL_C, 5));
    let reader = ["exec", "-it", name, "sh", "-c", READER];
    let mut inside = Session::begin(engine(&reader), 25, 80);
    inside.terminal.expect("begun\r\n");
    inside.says(b"a line\n", "a line\r\na line\r\n");
    inside.says(CTRL_D, "ended\r\n");
    shown.push(inside.ends(CTRL_C, 130));
    let keys = ["attach", "--detach-keys", "ctrl-a,x", name];
    let mut attached = Session::begin(engine(&keys), 20, 77);
    attached.terminal.expect("now 20 77\r\n");
    attached.says(b"again\n", "heard again\r\n");
    shown.push(attached.ends(b"\x01x", client.leaves));
    let mut attached = Session::begin(engine(&["attach", name]), 20, 77);
    attached.says(b"still there\n", "heard still there\r\n");
    shown.push(attached.ends(CTRL_C, client.stays));
    shown.iter().map(|text| without_sizes(text)).collect()
}

/// A text without the lines that tell of a changed size: one client tells a container twice, to have it draw all again, and
/// signals of the same number are one.
fn without_sizes(text: &str) -> String {
    let lines = text.split_inclusive('\n');
    lines.filter(|line| !line.starts_with("now ")).collect()
}
