"""Runs commands inside the emulated KVM host, for kvm-host outside.

First process there. Each virtio-serial port carries one command at a time, as
frames (type, length, payload; see wire.py): after a mark the request, then standard input,
signals and window sizes one way, output and the exit code the other way.
When the outside hangs up, the command and its children are killed.
"""
import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import wire  # noqa: E402

PORTS = "/sys/class/virtio-ports"
# Standard input the command has not read yet; beyond it the port is not read.
PENDING_INPUT_CAP = 1 << 16


def start(request):
    """Starts the command; returns its process id and the files for its
    standard input, output and error (the same file on a terminal)."""
    if request["tty"]:
        pid, terminal = pty.fork()
        if pid == 0:
            replace(request)
        rows, columns = request["window"]
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        return pid, terminal, terminal, None
    pipes = [os.pipe() for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(pipes[0][0], 0)
        os.dup2(pipes[1][1], 1)
        os.dup2(pipes[2][1], 2)
        replace(request)
    for unused in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.close(unused)
    return pid, pipes[0][1], pipes[1][0], pipes[2][0]


def replace(request):
    """Becomes the command (in the child)."""
    for number in (signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.chdir(request["cwd"])
    except OSError as error:
        os.write(2, f"kvm-host: {request['cwd']} is not there inside the emulated host "
                    f"({error.strerror}); kvm-host run and start take --share\n".encode())
        os._exit(126)
    try:
        os.execvpe(request["argv"][0], request["argv"], request["env"])
    except FileNotFoundError as error:
        os.write(2, f"kvm-host: {request['argv'][0]}: not found\n".encode())
        os._exit(127)
    except OSError as error:
        os.write(2, f"kvm-host: {request['argv'][0]}: {error.strerror}\n".encode())
        os._exit(126)


class Session:
    """One command and the port that carries it."""

    def __init__(self, port, request):
        self.port = port
        self.frames = wire.Reader()
        self.tty = request["tty"]
        self.pid, self.input, self.output, self.errors = start(request)
        os.set_blocking(self.input, False)
        self.pending = b""
        self.input_ended = False

    def kill(self, number):
        """Signals the command's whole session."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def run(self):
        """Carries everything until the command ends; returns a new request
        when the outside began another conversation meanwhile."""
        child = os.pidfd_open(self.pid)
        ended = False
        while True:
            reads = [fd for fd in (self.output, self.errors) if fd is not None]
            if not ended:
                reads.append(child)
            if len(self.pending) < PENDING_INPUT_CAP:
                reads.append(self.port)
            writes = [self.input] if self.pending and self.input is not None else []
            # What the command wrote before it ended is still in the pipes; a
            # daemon it left behind may hold them open for ever.
            ready, writable, _ = select.select(reads, writes, [], 0.2 if ended else None)
            got_output = self.forward(ready)
            if self.port in ready:
                renewed = self.receive()
                if renewed is not None:
                    return renewed
            if writable:
                self.feed()
            if child in ready:
                ended = True
            if ended and not got_output:
                return self.finish()

    def forward(self, ready):
        """Carries output; whether there was any."""
        got = False
        for kind, fd in ((wire.OUT, self.output), (wire.ERR, self.errors)):
            if fd is None or fd not in ready:
                continue
            try:
                data = os.read(fd, wire.CHUNK)
            except OSError:  # the last holder of the terminal is gone
                data = b""
            if data:
                got = True
                wire.send(self.port, kind, data)
            elif kind == wire.OUT:
                self.output = None
            else:
                self.errors = None
        return got

    def receive(self):
        """Handles frames from outside; {} when it hung up, a request when it
        started over."""
        data = os.read(self.port, wire.CHUNK)
        if not data:
            self.kill(signal.SIGKILL)
            return {}
        for kind, payload in self.frames.feed(data):
            if kind == wire.REQUEST:
                self.kill(signal.SIGKILL)
                return json.loads(payload)
            if kind == wire.INPUT:
                self.pending += payload
            elif kind == wire.INPUT_END:
                self.input_ended = True
            elif kind == wire.SIGNAL:
                self.kill(payload[0])
            elif kind == wire.WINDOW and self.tty and self.input is not None:
                fcntl.ioctl(self.input, termios.TIOCSWINSZ, payload + bytes(4))
        self.feed()
        return None

    def feed(self):
        """Gives the command what it will take of its standard input."""
        if self.input is None:
            return
        try:
            while self.pending:
                self.pending = self.pending[os.write(self.input, self.pending):]
        except BlockingIOError:
            return
        except OSError:  # it closed its standard input
            self.pending, self.input_ended = b"", True
        if self.input_ended and not self.tty:
            os.close(self.input)
            self.input = None

    def finish(self):
        """Reports the exit code, as a shell would give it."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        os.sync()
        wire.send(self.port, wire.EXIT, bytes([code if code >= 0 else 128 - code]))
        return {}


def serve(port):
    """One conversation on a port: a request, then the command's streams."""
    frames = wire.Reader(waits=True)
    while True:
        data = os.read(port, wire.CHUNK)
        if not data:
            return
        for kind, payload in frames.feed(data):
            if kind != wire.REQUEST:
                continue
            request = json.loads(payload)
            while request:
                wire.send(port, wire.READY, b"")
                if not request["argv"]:  # only asked whether the host is up
                    return
                request = Session(port, request).run()
            return


def hold_virtual_machine():
    """Keeps an empty virtual machine open for the host's whole life.

    With the first one and after the last one the kernel patches its own code
    (static keys), which an emulated processor does not always survive.
    """
    create_vm = 0xAE01
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        # Both descriptors stay open with this process.
        fcntl.ioctl(kvm, create_vm, 0)
    except OSError:
        # A host without KVM is found out by whoever needs it.
        pass


def main():
    """Waits on the idle ports; a process of its own serves each busy one."""
    os.environ.clear()
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    hold_virtual_machine()
    names = sorted(os.listdir(PORTS))
    ports = [os.open(f"/dev/{name}", os.O_RDWR | os.O_CLOEXEC) for name in names]
    # Edge triggered: a port without a peer reports "hung up" for ever.
    idle = select.epoll()
    for port in ports:
        idle.register(port, select.EPOLLIN | select.EPOLLET)
    wake, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm)
    idle.register(wake, select.EPOLLIN)
    busy = {}
    print("koya-host: ready", flush=True)
    while True:
        for fd, event in idle.poll():
            if fd == wake:
                os.read(wake, 512)
            elif event & select.EPOLLIN and not event & select.EPOLLHUP:
                idle.unregister(fd)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    serve(fd)
                    os._exit(0)
                busy[pid] = fd
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in busy:
                idle.register(busy.pop(pid), select.EPOLLIN | select.EPOLLET)


if __name__ == "__main__":
    main()
