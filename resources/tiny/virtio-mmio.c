#include "virtio-mmio.h"

#define FIRST_SLOT 0xc0001000ull
#define SLOT_SIZE 0x1000ull
#define SLOTS 19u
#define FEATURE_VERSION_1 1u      // bit 32
#define PATIENCE (3ull << 30)     // cycles of the time stamp counter

struct rings rings __attribute__((aligned(64)));
static struct rings idle __attribute__((aligned(64)));
struct device devices[MAX_DEVICES];

static uint64_t cycles(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static bool add_device(unsigned n, uint64_t base) {
    if (n == MAX_DEVICES || get32(base + MAGIC) != MAGIC_VALUE || get32(base + DEVICE_ID) == 0)
        return false;
    devices[n].base = base;
    devices[n].id = get32(base + DEVICE_ID);
    return true;
}

unsigned find_devices(const struct start_info *info) {
    static uint8_t table[PAGE] __attribute__((aligned(4096)));
    const char *word = info->cmdline ? (const char *)info->cmdline : "";
    unsigned n = 0;
    uint64_t base;

    map_gib(3, table);
    while ((word = find_word(word, "virtio_mmio.device="))) {
        while (*word && *word != ' ' && *word++ != '@')
            ;
        word = parse_number(word, &base);
        if (base >= 3 * GIB && base < 4 * GIB)
            n += add_device(n, base);
    }
    for (unsigned slot = 0; n == slot && slot < SLOTS; slot++)
        n += add_device(n, FIRST_SLOT + slot * SLOT_SIZE);
    return n;
}

bool reset_device(const struct device *dev) {
    uint64_t began = cycles();
    put32(dev->base + STATUS, 0);
    while (get32(dev->base + STATUS) != 0)
        if (cycles() - began > PATIENCE)
            return false;
    return true;
}

bool negotiate(struct device *dev) {
    if (!reset_device(dev) || get32(dev->base + VERSION) != 2)
        return false;
    put32(dev->base + STATUS, ACKNOWLEDGE);
    put32(dev->base + STATUS, ACKNOWLEDGE | DRIVER);
    put32(dev->base + DEVICE_FEATURES_SEL, 0);
    dev->features = get32(dev->base + DEVICE_FEATURES);
    put32(dev->base + DRIVER_FEATURES_SEL, 0);
    put32(dev->base + DRIVER_FEATURES, 0);
    put32(dev->base + DRIVER_FEATURES_SEL, 1);
    put32(dev->base + DRIVER_FEATURES, FEATURE_VERSION_1);
    put32(dev->base + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    return get32(dev->base + STATUS) & FEATURES_OK;
}

static void put_address(uint64_t reg, const volatile void *addr) {
    put32(reg, (uint32_t)(uint64_t)addr);
    put32(reg + 4, (uint32_t)((uint64_t)addr >> 32));
}

static bool place_rings(const struct device *dev, unsigned queue, struct rings *where) {
    *where = (struct rings){0};
    put32(dev->base + QUEUE_SEL, queue);
    if (get32(dev->base + QUEUE_NUM_MAX) < QUEUE_SIZE)
        return false;
    put32(dev->base + QUEUE_NUM, QUEUE_SIZE);
    put_address(dev->base + QUEUE_DESC, where->desc);
    put_address(dev->base + QUEUE_DRIVER, &where->avail);
    put_address(dev->base + QUEUE_DEVICE, &where->used);
    put32(dev->base + QUEUE_READY, 1);
    return get32(dev->base + QUEUE_READY) == 1;
}

bool enable_queue(const struct device *dev, unsigned queue) {
    // A network device need not start with one of its two queues only.
    if (dev->id == NET && !place_rings(dev, queue ^ 1, &idle))
        return false;
    return place_rings(dev, queue, &rings);
}

void go_live(const struct device *dev) {
    put32(dev->base + STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

bool start_device(struct device *dev, unsigned queue) {
    if (!negotiate(dev) || !enable_queue(dev, queue))
        return false;
    go_live(dev);
    return !(get32(dev->base + STATUS) & NEEDS_RESET);
}

void set_desc(unsigned i, const void *addr, uint32_t len, uint16_t flags) {
    rings.desc[i] = (struct desc){(uint64_t)addr, len, flags, (uint16_t)(i + 1)};
}

void offer(const struct device *dev, unsigned queue) {
    rings.avail.ring[rings.avail.idx % QUEUE_SIZE] = 0;
    // x86 keeps stores in order; only the compiler must be told.
    __asm__ volatile("" ::: "memory");
    rings.avail.idx++;
    put32(dev->base + QUEUE_NOTIFY, queue);
}

bool wait_used(void) {
    uint64_t began = cycles();
    while (*(volatile uint16_t *)&rings.used.idx != rings.avail.idx)
        if (cycles() - began > PATIENCE)
            return false;
    return true;
}

bool request(const struct device *dev, unsigned queue) {
    offer(dev, queue);
    return wait_used();
}
