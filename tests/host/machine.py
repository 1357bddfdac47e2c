"""What this machine offers: its /dev/kvm, and what an emulated host needs."""
import glob
import lzma
import os
import re
import shutil
import struct
import tempfile

QEMU = "qemu-system-x86_64"
# Drivers the emulated host loads before it has a root file system, and KVM.
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay",
           "kvm_amd", "tun", "vhost_net", "vhost_vsock")


class HostError(Exception):
    """Something this machine lacks, with what would be right."""


def classify():
    """The kind of /dev/kvm here, and why: ("hardware" | "page-table" | "none", reason)."""
    if not os.path.exists("/dev/kvm"):
        return "none", "there is no /dev/kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "none", "no permission to read and write /dev/kvm"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = re.search(r"^flags\s*:(.*)$", file.read(), re.MULTILINE)
    virtual = {"svm", "vmx"} & set(flags.group(1).split() if flags else ())
    if os.path.isdir("/sys/module/kvm_pvm"):
        return "page-table", "module kvm_pvm: it interprets the kernel mode of its guests"
    if virtual:
        return "hardware", f"the processor has {virtual.pop()}"
    return "page-table", "/dev/kvm is there, but the processor has neither svm nor vmx"


def kind():
    """Where guests run: ("native" | "emulated" | "none", reason)."""
    forced = os.environ.get("KOYA_KVM_HOST")
    if forced in ("native", "emulated"):
        return forced, f"KOYA_KVM_HOST={forced}"
    if forced:
        raise HostError(f"KOYA_KVM_HOST is '{forced}'; it takes native or emulated")
    found, reason = classify()
    if found == "hardware":
        return "native", reason
    try:
        kernel()
    except HostError as error:
        return "none", f"{reason}; {error}"
    return "emulated", reason


def cache():
    """The folder of the project's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "koya")


def kernel():
    """Release of the installed Debian kernel an emulated host can run."""
    if not shutil.which(QEMU):
        raise HostError(f"{QEMU} is not installed; run resources/install-packages")

    def order(release):
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", release)]

    # The cloud and real-time kernels lack 9p or KVM.
    releases = [os.path.basename(path)[len("vmlinuz-"):] for path in glob.glob("/boot/vmlinuz-*-amd64")]
    fit = [release for release in releases
           if glob.glob(f"/lib/modules/{release}/kernel/fs/9p/9p.ko*")
           and glob.glob(f"/lib/modules/{release}/kernel/arch/x86/kvm/kvm-amd.ko")
           and os.access(f"/boot/vmlinuz-{release}", os.R_OK)]
    if not fit:
        raise HostError("no readable Debian kernel with 9p and kvm-amd in /boot; "
                        "run resources/install-packages (linux-image-amd64)")
    return max(fit, key=order)


def unpacked(release):
    """The kernel of that release as an uncompressed ELF file, kept in the
    cache: decompressing it inside the emulation takes seconds at every start."""
    source = f"/boot/vmlinuz-{release}"
    stamp = os.stat(source)
    target = os.path.join(cache(), "kvm-host", f"vmlinux-{release}-{stamp.st_size}-{int(stamp.st_mtime)}")
    if os.path.exists(target):
        return target
    with open(source, "rb") as file:
        image = file.read()
    # Linux boot protocol: setup_sects, then payload_offset and payload_length.
    sectors = image[0x1f1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[(sectors + 1) * 512 + offset:][:length]
    try:
        elf = lzma.LZMADecompressor().decompress(payload)
    except lzma.LZMAError:
        return source
    os.makedirs(os.path.dirname(target), exist_ok=True)
    handle, name = tempfile.mkstemp(dir=os.path.dirname(target))
    with os.fdopen(handle, "wb") as file:
        file.write(elf)
    os.rename(name, target)
    return target


def modules(release):
    """Paths of MODULES and all they depend on, in loading order."""
    root = f"/lib/modules/{release}"
    needs = {}
    with open(f"{root}/modules.dep", encoding="ascii") as file:
        for line in file:
            path, _, depends = line.partition(":")
            needs[path] = depends.split()
    by_name = {os.path.basename(path).split(".")[0].replace("-", "_"): path for path in needs}
    order = []

    def add(path):
        if path not in order:
            # modules.dep lists the nearest dependency first.
            for dependency in reversed(needs[path]):
                add(dependency)
            order.append(path)

    for name in MODULES:
        if name in by_name:
            add(by_name[name])
    return [os.path.join(root, path) for path in order]


def archive(files):
    """A cpio archive (newc) of {path: (mode, content)}, as an initial RAM disk."""
    parts = []
    folders = {}
    for path in files:
        for depth in range(1, path.count("/") + 1):
            folders["/".join(path.split("/")[:depth])] = (0o040755, b"")
    for number, (path, (mode, content)) in enumerate(
            [*folders.items(), *files.items(), ("TRAILER!!!", (0, b""))], 1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        parts += [header, bytes(-len(header) % 4), content, bytes(-len(content) % 4)]
    return b"".join(parts)
