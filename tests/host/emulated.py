"""The emulated KVM host: QEMU's TCG, which emulates AMD's SVM with nested
paging, running the machine's own Debian kernel on the machine's own files."""
import ctypes
import fcntl
import glob
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import machine
import wire
from machine import HostError

HERE = os.path.dirname(os.path.abspath(__file__))
# Commands that can run at the same time.
PORTS = 15
BOOT_SECONDS = 60
# Four levels of page tables are quicker to walk than five. QEMU 7.2 does not tell
# the KVM in here when a guest writes XCR0, so there is nothing to save with it.
# Kernels told of "fast" string instructions copy and clear with them; QEMU plays
# those byte by byte, and a guest's boot takes twice as long.
CPU = "max,erms=off,fsrm=off,la57=off,xsave=off,avx=off,avx2=off,fma=off,f16c=off,vaes=off,mpx=off,pku=off"
BUSYBOX = "/bin/busybox"


def default_folder():
    """Where a host that stays up keeps its sockets and log."""
    chosen = os.environ.get("KOYA_KVM_HOST_DIR")
    return chosen or f"/tmp/koya-kvm-host-{os.getuid()}"


def shared_folders(extra):
    """Folders to write through although they may lie under one that is not:
    the checkout, the working directory, the caches, and those asked for."""
    checkout = os.path.dirname(os.path.dirname(HERE))
    wanted = [checkout, os.getcwd(), machine.cache(), os.environ.get("CARGO_TARGET_DIR"), *extra]
    folders = []
    for path in sorted({os.path.realpath(path) for path in wanted if path}):
        if any(character.isspace() for character in path):
            raise HostError(f"cannot share '{path}' with the emulated KVM host: its name has spaces")
        if os.path.isdir(path) and path != "/" and not any(path.startswith(f + "/") for f in folders):
            folders.append(path)
    return folders


def initial_disk(release, shares):
    """The initial RAM disk: busybox, drivers, our init and its settings."""
    if not os.path.exists(BUSYBOX):
        raise HostError(f"{BUSYBOX} is not there; run resources/install-packages (busybox-static)")
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
    drivers = machine.modules(release)
    settings = {"PYTHON": python, "AGENT": os.path.join(HERE, "agent.py"),
                "SHARES": " ".join(shares), "MODULES": " ".join(map(os.path.basename, drivers))}
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    files = {"settings": (0o100644, "\n".join(lines).encode() + b"\n")}
    for name, path in [("init", os.path.join(HERE, "init")), ("bin/busybox", BUSYBOX),
                       *((f"modules/{os.path.basename(path)}", path) for path in drivers)]:
        with open(path, "rb") as file:
            files[name] = (0o100755, file.read())
    return machine.archive(files)


class Host:
    """An emulated host, known by its folder: sockets p0…, pid, console.log."""

    def __init__(self, folder):
        self.folder = folder
        self.process = None

    def path(self, name):
        return os.path.join(self.folder, name)

    def pid(self):
        """Process id of its QEMU, or None when it does not run."""
        try:
            with open(self.path("pid"), encoding="ascii") as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return pid if self.path("p0").encode() in file.read() else None
        except (OSError, ValueError):
            return None

    def launch(self, options, stays):
        """Starts QEMU; the host is not up yet when this returns."""
        release = machine.kernel()
        kernel = machine.unpacked(release)
        with open(self.path("initrd"), "wb") as file:
            file.write(initial_disk(release, shared_folders(options.share)))
        console = self.path("console.log")
        arguments = [
            # Not the microvm machine: without HPET or ACPI timer a kernel cannot
            # tell the speed of the TSC on a busy machine, and stops.
            machine.QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35,smbus=off,sata=off,vmport=off", "-accel", "tcg,thread=multi,tb-size=512",
            "-cpu", CPU, "-smp", str(options.cpus), "-m", options.memory,
            "-kernel", kernel, "-initrd", self.path("initrd"),
            "-append", "console=ttyS0 panic=-1 mitigations=off tsc=reliable "
                       "audit=0 apparmor=0 rcupdate.rcu_expedited=1 random.trust_cpu=on",
            "-serial", f"file:{console}",
            "-fsdev", "local,id=live,path=/,security_model=none,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=live,mount_tag=live",
            "-fsdev", "local,id=usr,path=/usr,security_model=none,multidevs=remap,readonly=on",
            "-device", "virtio-9p-pci,fsdev=usr,mount_tag=usr",
            "-device", "virtio-serial-pci,max_ports=16"]
        for port in range(PORTS):
            arguments += ["-chardev", f"socket,id=p{port},path={self.path(f'p{port}')},server=on,wait=off",
                          "-device", f"virtserialport,chardev=p{port},name=koya.{port}"]
        with open(self.path("qemu.log"), "wb") as log:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=None if stays else die_with_parent)
        with open(self.path("pid"), "w", encoding="ascii") as file:
            file.write(str(self.process.pid))

    def connect(self):
        """A free port's socket, held by this process alone."""
        order = list(range(PORTS))
        random.shuffle(order)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for port in order:
                lock = os.open(self.path(f"p{port}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    connection = socket.socket(socket.AF_UNIX)
                    connection.connect(self.path(f"p{port}"))
                    return connection
                except OSError:
                    os.close(lock)
            if self.process and self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise HostError(f"no free port in {self.folder}: QEMU ended, or {PORTS} commands are running"
                        f"\n{self.log()}")

    def await_up(self, connection, request):
        """Sends a request and waits for the answer: the host is up."""
        connection.sendall(wire.BEGIN + wire.frame(wire.REQUEST, request))
        frames = wire.Reader()
        deadline = time.monotonic() + BOOT_SECONDS
        connection.settimeout(0.25)
        while time.monotonic() < deadline:
            try:
                data = connection.recv(5)
            except TimeoutError:
                continue
            if not data:
                raise HostError(f"the emulated KVM host ended while it booted\n{self.log()}")
            if any(kind == wire.READY for kind, _ in frames.feed(data)):
                connection.settimeout(None)
                return
        raise HostError(f"the emulated KVM host did not come up within {BOOT_SECONDS} s\n{self.log()}")

    def log(self):
        """The end of what QEMU and the host's console said."""
        text = ""
        for name in ("qemu.log", "console.log"):
            try:
                with open(self.path(name), encoding="utf-8", errors="replace") as file:
                    lines = file.read().splitlines()[-40:]
            except OSError:
                continue
            text += "".join(f"  {name}: {line}\n" for line in lines)
        return text.rstrip() or "  (its logs are empty)"

    def stop(self):
        """Ends QEMU and removes the folder."""
        pid = self.process.pid if self.process else self.pid()
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
                if self.process:
                    self.process.wait()
                else:
                    while self.pid():
                        time.sleep(0.02)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)


def die_with_parent():
    """QEMU is not to outlive a kvm-host that was killed (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def temporary():
    """A folder for a host of one command; also removes folders of ours whose
    kvm-host was killed before it could."""
    for folder in glob.glob("/tmp/koya-kvm-host-run-*"):
        try:
            old = time.time() - os.lstat(folder).st_mtime > 2 * BOOT_SECONDS
            if old and os.lstat(folder).st_uid == os.getuid() and not Host(folder).pid():
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
    return tempfile.mkdtemp(prefix="koya-kvm-host-run-", dir="/tmp")


def running():
    """The host that `start` left running, or None."""
    folder = default_folder()
    try:
        owner = os.lstat(folder)
    except OSError:
        return None
    if owner.st_uid != os.getuid():
        print(f"kvm-host: {folder} belongs to somebody else: not used", file=sys.stderr)
        return None
    host = Host(folder)
    return host if host.pid() else None
