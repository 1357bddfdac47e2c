// The least that any VMM must do for a guest: a virtual machine
// with 128 MiB, a split interrupt controller and one vCPU, by bare ioctls, in a
// static program. Benchmarks take it for the floor of a host: how soon a guest's
// first byte can be there at all, and how soon it can all be over.
//
//   floor hello   the guest says its line on the serial port, then resets
//   floor reset   it resets at once
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY (128UL << 20)
#define CODE 0x1000
#define TEXT 0x2000
#define IOAPIC_PINS 24
#define CPUID_ENTRIES 256

static const char line[] = "hello from a tiny guest\n";

// 32-bit code: rep outsb of ECX bytes at ESI to port 0x3f8, then the reset of the keyboard controller.
static const uint8_t code[] = {
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xf3, 0x6e,             // rep outsb
    0xb0, 0xfe,             // mov al, 0xfe
    0xe6, 0x64,             // out 0x64, al
    0xf4,                   // hlt
};

static struct {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[CPUID_ENTRIES];
} cpuid = {.head.nent = CPUID_ENTRIES};

static int check(int result) {
    if (result < 0)
        _exit(2);
    return result;
}

static void set_up(int kvm, int vcpu, int says) {
    check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid));
    check(ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
    struct kvm_sregs sregs;
    check(ioctl(vcpu, KVM_GET_SREGS, &sregs));
    struct kvm_segment flat = {.limit = ~0U, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs.cs = flat;
    flat.selector = 16;
    flat.type = 3;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
    sregs.cr0 |= 1;
    check(ioctl(vcpu, KVM_SET_SREGS, &sregs));
    struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rsi = TEXT, .rcx = says ? sizeof line - 1 : 0};
    check(ioctl(vcpu, KVM_SET_REGS, &regs));
}

int main(int argc, char **argv) {
    int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    int vm = check(ioctl(kvm, KVM_CREATE_VM, 0));
    uint8_t *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    check(memory == MAP_FAILED ? -1 : 0);
    // Before the interrupt controller: behind it, a slot costs a grace period.
    struct kvm_userspace_memory_region slot = {.memory_size = MEMORY, .userspace_addr = (uint64_t)memory};
    check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot));
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IOAPIC_PINS}};
    check(ioctl(vm, KVM_ENABLE_CAP, &split));
    int vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0));
    int size = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    check(run == MAP_FAILED ? -1 : 0);
    set_up(kvm, vcpu, argc > 1 && strcmp(argv[1], "hello") == 0);
    memcpy(memory + CODE, code, sizeof code);
    memcpy(memory + TEXT, line, sizeof line);
    for (;;) {
        check(ioctl(vcpu, KVM_RUN, 0));
        if (run->exit_reason != KVM_EXIT_IO)
            _exit(3);
        if (run->io.port == 0x64)
            _exit(0);
        size_t length = (size_t)run->io.size * run->io.count;
        check(write(STDOUT_FILENO, (uint8_t *)run + run->io.data_offset, length) == (ssize_t)length ? 0 : -1);
    }
}
