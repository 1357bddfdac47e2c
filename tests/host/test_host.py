#!/usr/bin/env python3
"""The emulated KVM host: that a command in it behaves like one outside.

Boots one host for all tests: about 10 s on an idle machine.
"""
import glob
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
TOOL = os.path.join(HERE, "kvm-host")
ENVIRONMENT = dict(os.environ, KOYA_KVM_HOST="emulated")
KVM_CHECK = """
import fcntl, os
kvm = os.open("/dev/kvm", os.O_RDWR)
assert fcntl.ioctl(kvm, 0xae00, 0) == 12          # KVM_GET_API_VERSION
os.close(fcntl.ioctl(kvm, 0xae01, 0))             # KVM_CREATE_VM
os.close(os.open("/dev/net/tun", os.O_RDWR))
"""


def setUpModule():
    ENVIRONMENT["KOYA_KVM_HOST_DIR"] = os.path.join(tempfile.mkdtemp(prefix="koya-test-"), "host")
    subprocess.run([TOOL, "start"], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def tearDownModule():
    subprocess.run([TOOL, "stop"], env=ENVIRONMENT, check=True)
    left = os.listdir(os.path.dirname(ENVIRONMENT["KOYA_KVM_HOST_DIR"]))
    shutil.rmtree(os.path.dirname(ENVIRONMENT["KOYA_KVM_HOST_DIR"]))
    assert not left, f"stop left {left}"


def inside(*command, options=(), **more):
    return subprocess.run([TOOL, "exec", *options, "--", *command], env=ENVIRONMENT,
                          capture_output=True, timeout=60, **more)


class Commands(unittest.TestCase):
    def test_offers_kvm_and_tun(self):
        done = inside("python3", "-c", KVM_CHECK)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_output_error_and_exit_code_pass(self):
        done = inside("sh", "-c", "echo out; echo err >&2; exit 7")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (7, b"out\n", b"err\n"))

    def test_death_by_signal_is_128_plus_its_number(self):
        self.assertEqual(inside("sh", "-c", "kill -KILL $$").returncode, 137)

    def test_a_missing_command_is_127(self):
        done = inside("no-such-command")
        self.assertEqual(done.returncode, 127)
        self.assertIn(b"no-such-command: not found", done.stderr)

    def test_bytes_survive_both_ways(self):
        data = os.urandom(1_000_000)
        self.assertEqual(inside("cat", input=data).stdout, data)

    def test_a_command_that_ignores_its_input_ends(self):
        self.assertEqual(inside("true", input=bytes(1_000_000)).returncode, 0)

    def test_same_folder_and_files(self):
        name = f".host-test-{os.getpid()}"
        done = inside("sh", "-c", f"pwd; echo written > {name}", cwd=HERE)
        path = os.path.join(HERE, name)
        try:
            with open(path, encoding="ascii") as file:
                self.assertEqual(file.read(), "written\n")
        finally:
            os.unlink(path)
        self.assertEqual(done.stdout.decode(), HERE + "\n")

    def test_a_file_changed_outside_is_seen_inside(self):
        with tempfile.NamedTemporaryFile(dir=HERE) as file:
            for text in (b"first\n", b"second, longer\n"):
                file.seek(0)
                file.write(text)
                file.flush()
                self.assertEqual(inside("cat", file.name).stdout, text)

    def test_system_folders_forget_changes(self):
        self.assertEqual(inside("sh", "-c", "echo x > /etc/koya-test && cat /etc/koya-test").stdout, b"x\n")
        self.assertFalse(os.path.exists("/etc/koya-test"))

    def test_only_chosen_variables_pass(self):
        ENVIRONMENT.update(SECRET="no", WANTED="yes", KOYA_THING="1")
        done = inside("env", options=["--env", "WANTED", "--env", "GIVEN=a b"])
        lines = done.stdout.decode().splitlines()
        for expected in ("WANTED=yes", "GIVEN=a b", "KOYA_THING=1", "KOYA_KVM_HOST=native"):
            self.assertIn(expected, lines)
        self.assertFalse([line for line in lines if line.startswith("SECRET=")])

    def test_commands_run_side_by_side(self):
        name = f"/tmp/koya-side-{os.getpid()}"
        waiting = subprocess.Popen([TOOL, "exec", "--", "sh", "-c", f"until test -e {name}; do sleep 0.1; done"],
                                   env=ENVIRONMENT)
        self.assertEqual(inside("touch", name).returncode, 0)
        self.assertEqual(waiting.wait(timeout=60), 0)

    def test_half_a_frame_of_one_who_left_is_no_part_of_the_next_conversation(self):
        for port in sorted(glob.glob(os.path.join(ENVIRONMENT["KOYA_KVM_HOST_DIR"], "p*[0-9]"))):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(port)
                # As a command's input is cut off that nobody reads any more: 1 MiB was to come.
                connection.sendall(b"I\x00\x10\x00\x00" + b"x" * 100)
        for _ in range(3):
            self.assertEqual(inside("echo", "here").stdout, b"here\n")

    def test_a_silent_host_is_woken_up(self):
        script = """
            port=$(ls /sys/class/virtio-ports | head -n 1)
            device=virtio$(echo "$port" | sed 's/vport\\([0-9]*\\)p.*/\\1/')
            count() { awk -v name="$device-" 'index($0, name) { sum += $2 } END { print sum + 0 }' /proc/interrupts; }
            before=$(count); sleep 13; echo $(($(count) - before))"""
        done = inside("sh", "-c", script)
        self.assertGreaterEqual(int(done.stdout), 2, done)

    def test_interrupting_ends_the_command(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            mark = f"4{number:04d}"
            running = subprocess.Popen([TOOL, "exec", "--", "sh", "-c", f"echo up; exec sleep {mark}"],
                                       env=ENVIRONMENT, stdout=subprocess.PIPE)
            self.assertEqual(running.stdout.readline(), b"up\n")
            running.send_signal(number)
            self.assertEqual(running.wait(timeout=30), code)
            running.stdout.close()
            deadline = time.monotonic() + 20
            while inside("pgrep", "-x", "-f", f"sleep {mark}").returncode == 0:
                self.assertLess(time.monotonic(), deadline, "the command runs on")


class Terminal(unittest.TestCase):
    """`--tty`: driven through a terminal of our own."""

    def setUp(self):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execve(TOOL, [TOOL, "exec", "--tty", "--", "sh"], ENVIRONMENT)
        self.seen = b""

    def expect(self, text):
        deadline = time.monotonic() + 30
        while text not in self.seen:
            self.assertLess(time.monotonic(), deadline, f"no {text} in {self.seen}")
            if select.select([self.terminal], [], [], 0.2)[0]:
                self.seen += os.read(self.terminal, 4096)
        self.seen = self.seen.split(text, 1)[1]

    def type(self, text):
        os.write(self.terminal, text)

    def test_control_keys_reach_the_command(self):
        self.expect(b"# ")
        # What is typed is echoed: split by quotes it differs from what is printed.
        self.type(b"sh -c 'tty; echo star\"\"ted; exec sleep 300'\n")
        self.expect(b"/dev/pts/")
        self.expect(b"started")
        self.type(b"\x03")
        self.expect(b"# ")
        self.type(b"echo still''here\n")
        self.expect(b"stillhere")
        self.expect(b"# ")
        # Control-A is the escape of a monitor: nobody on the way may take it.
        self.type(b"stty raw -echo; echo rea''dy; head -c 2 | od -An -tx1; stty sane; echo don''e\n")
        self.expect(b"ready")
        self.type(b"\x01x")
        self.expect(b"01 78")
        self.expect(b"done")
        self.type(b"exit 6\n")
        _, status = os.waitpid(self.pid, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 6)


class OneShot(unittest.TestCase):
    def test_a_termination_leaves_nothing(self):
        environment = dict(ENVIRONMENT, KOYA_KVM_HOST_DIR="/nonexistent/host")
        running = subprocess.Popen([TOOL, "run", "--", "sh", "-c", "echo up; sleep 300"],
                                   env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(running.stdout.readline(), b"up\n")
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(running.pid)],
                                  capture_output=True, check=True).stdout.split()
        self.assertTrue(children)
        running.terminate()
        self.assertEqual(running.wait(timeout=30), 143)
        said = running.stderr.read().decode()
        running.stdout.close()
        running.stderr.close()
        self.assertEqual(len(said.splitlines()), 1, said)
        for child in children:
            self.assertFalse(os.path.exists(f"/proc/{int(child)}"), "QEMU runs on")

    def test_an_unknown_kind_is_refused(self):
        done = subprocess.run([TOOL, "kind"], env=dict(ENVIRONMENT, KOYA_KVM_HOST="quick"), capture_output=True)
        self.assertEqual(done.returncode, 125)
        self.assertIn(b"native or emulated", done.stderr)


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=1))
