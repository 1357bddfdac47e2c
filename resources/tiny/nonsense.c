// Writes nonsense at every width to every port, to the interrupt controller and to
// the pages where a device could be, and reads them all. Then it puts the serial
// port right, says so, and resets. virtio devices have misbehave.c for that.
#include "guest.h"

#define COM1 0x3f8
#define IOAPIC 0xfec00000ull
#define IOAPIC_WINDOW 0x10
#define PORTS 0x1000u // as many as user.S opens
#define PAGES 32u

// None of them asks for a reset, for power-off, or for an interrupt that no guest survives.
static const uint32_t values[] = {~0u, 0x55555555, 0x0001aaaa, 0};
#define VALUES (sizeof values / sizeof *values)

static void touch_port(uint16_t port, uint32_t value) {
    uint32_t read;
    __asm__ volatile("outb %b0, %1" ::"a"(value), "d"(port));
    __asm__ volatile("outw %w0, %1" ::"a"(value), "d"(port));
    __asm__ volatile("outl %0, %1" ::"a"(value), "d"(port));
    __asm__ volatile("inb %1, %b0" : "=a"(read) : "d"(port));
    __asm__ volatile("inw %1, %w0" : "=a"(read) : "d"(port));
    __asm__ volatile("inl %1, %0" : "=a"(read) : "d"(port));
}

static void touch_address(uint64_t address, uint32_t value) {
    put8(address, (uint8_t)value), put16(address, (uint16_t)value);
    put32(address, value), put64(address, value | (uint64_t)value << 32);
    get8(address), get16(address), get32(address), get64(address);
}

static bool has_device(unsigned port) {
    return (port >= 0x20 && port < 0x100) || (port >= COM1 - 8 && port < COM1 + 16) ||
           (port >= 0x5f8 && port < 0x610) || port >= PORTS - 8;
}

void guest_main(const struct start_info *info) {
    static uint8_t table[PAGE] __attribute__((aligned(4096)));
    (void)info;

    map_gib(3, table);
    for (unsigned v = 0; v < VALUES; v++) {
        for (unsigned port = 0; port < PORTS - 3; port++)
            if (has_device(port) || port % 64 == v)
                touch_port((uint16_t)port, values[v]);
        for (unsigned index = 0; index < 0x100; index++) {
            put32(IOAPIC, index);
            touch_address(IOAPIC + IOAPIC_WINDOW, values[v]);
        }
        for (uint64_t offset = 0; offset < 0x40; offset++)
            touch_address(IOAPIC + offset, values[v]);
        for (uint64_t page = 0; page < PAGES; page++) {
            touch_address(3 * GIB + page * PAGE, values[v]);
            touch_address(3 * GIB + page * PAGE + PAGE - 4, values[v]);
            touch_address(4 * GIB - PAGE - page * PAGE, values[v]);
        }
    }
    for (uint16_t reg = 1; reg < 5; reg++)
        out8(COM1 + reg, 0);
    out8(COM1 + 3, 0); // again, now that the divisor latch is closed
    out8(COM1 + 1, 0);
    say("\nnonsense: done\n");
    leave();
}
