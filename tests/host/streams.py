"""A command's streams, carried between this process and the emulated host."""
import json
import os
import select
import signal
import struct
import sys
import termios
import threading
import tty

import wire
from machine import HostError

# Handed over without being asked for; the rest of the environment belongs to
# this machine and this session.
PASSED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "TZ", "CARGO_HOME",
          "CARGO_TARGET_DIR", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "RUST_BACKTRACE", "RUST_LOG")
# Seconds in which a host says nothing until it is woken up, should it sleep.
SILENCE = 5
PASSED_PREFIXES = ("KOYA_", "LC_", "XDG_CACHE", "CARGO_TERM_", "NEXTEST")


def environment(extra):
    """The variables for the command; `extra` holds NAME or NAME=VALUE."""
    passed = {name: value for name, value in os.environ.items()
              if name in PASSED or name.startswith(PASSED_PREFIXES)}
    for item in extra:
        name, given, value = item.partition("=")
        if given:
            passed[name] = value
        elif name in os.environ:
            passed[name] = os.environ[name]
    # Inside, /dev/kvm is a real one.
    passed["KOYA_KVM_HOST"] = "native"
    passed["KOYA_KVM_HOST_EMULATED"] = "1"
    return passed


def window():
    """Rows and columns of the terminal on standard output."""
    try:
        size = os.get_terminal_size(1)
        return size.lines, size.columns
    except OSError:
        return 24, 80


def request(command, on_terminal, extra=()):
    """The request that starts a command, as bytes."""
    return json.dumps({"argv": command, "env": environment(extra), "cwd": os.getcwd(),
                       "tty": on_terminal, "window": window()}).encode()


def carry(host, options):
    """Runs the command in the host; returns its exit code."""
    if options.tty and not os.isatty(0):
        raise HostError("--tty needs a terminal on standard input")
    connection = host.connect()
    restore = termios.tcgetattr(0) if options.tty else None
    try:
        host.await_up(connection, request(options.command, options.tty, options.env))
        return Carrier(connection, options.tty).run(restore)
    finally:
        if restore is not None:
            termios.tcsetattr(0, termios.TCSAFLUSH, restore)


class Carrier:
    """Moves frames until the command's exit code comes."""

    def __init__(self, connection, on_terminal):
        self.connection = connection
        self.tty = on_terminal
        self.sending = threading.Lock()

    def send(self, kind, payload):
        with self.sending:
            self.connection.sendall(wire.frame(kind, payload))

    def run(self, restore):
        if self.tty:
            tty.setraw(0)
            signal.signal(signal.SIGWINCH, lambda *_: self.resize())
        # A terminal that is not asked for with --tty keeps what is typed.
        if self.tty or not os.isatty(0):
            threading.Thread(target=self.carry_input, daemon=True).start()
        else:
            self.send(wire.INPUT_END, b"")
        frames = wire.Reader()
        while True:
            if not select.select([self.connection], [], [], SILENCE)[0]:
                self.wake()
                continue
            data = self.connection.recv(1 << 16)
            if not data:
                if restore is not None:
                    termios.tcsetattr(0, termios.TCSAFLUSH, restore)
                raise HostError("the emulated KVM host ended before the command did")
            for kind, payload in frames.feed(data):
                if kind == wire.OUT:
                    write_all(1, payload)
                elif kind == wire.ERR:
                    write_all(2, payload)
                elif kind == wire.EXIT:
                    return payload[0]

    def wake(self):
        """Has the host's processor wake up. QEMU now and then loses the timer
        for which it sleeps, and it sleeps on until anything interrupts it
        (docs/decisions/0008). Nobody waits for this, or is kept by it."""
        if not self.sending.acquire(blocking=False):
            return
        try:
            if select.select([], [self.connection], [], 0)[1]:
                self.connection.sendall(wire.frame(wire.WAKE, b""))
        except OSError:
            # It has ended, which whoever reads is about to learn.
            pass
        finally:
            self.sending.release()

    def resize(self):
        """Tells the terminal of the command the size of this one."""
        self.send(wire.WINDOW, struct.pack("HH", *window()))

    def carry_input(self):
        """Standard input, until it ends or the process does."""
        try:
            while data := os.read(0, wire.CHUNK):
                self.send(wire.INPUT, data)
            self.send(wire.INPUT_END, b"")
        except OSError:
            pass


def write_all(fd, data):
    """Writes everything; a reader that went away ends us as it ends a command."""
    try:
        while data:
            data = data[os.write(fd, data):]
    except BrokenPipeError:
        sys.stdout = None
        sys.exit(128 + signal.SIGPIPE)
