#include "misbehave.h"
#include "requests.h"

#define WINDOW 0x200u // the part of a slot that every VMM decodes
#define NOWHERE 0xfffffff0deadb000ull

static void offer_and_forget(const struct device *dev) {
    for (unsigned queue = 0; queue < 2; queue++)
        offer(dev, queue);
}

// Every offset, also odd ones, at every width, with several values.
static void nonsense_registers(struct device *dev) {
    static const uint64_t values[] = {~0ull, 0xdeadbeefdeadbeefull, 1, 0};
    for (unsigned v = 0; v < sizeof values / sizeof *values; v++)
        for (uint64_t reg = dev->base; reg < dev->base + WINDOW - 7; reg++) {
            get8(reg), get16(reg), get32(reg), get64(reg);
            put8(reg, (uint8_t)values[v]);
            put16(reg, (uint16_t)values[v]);
            put32(reg, (uint32_t)values[v]);
            put64(reg, values[v]);
        }
}

static void place_queue(const struct device *dev, uint64_t desc, uint64_t driver, uint64_t used) {
    const uint64_t where[] = {desc, driver, used};
    const uint64_t regs[] = {QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE};
    for (unsigned i = 0; i < 3; i++) {
        put32(dev->base + regs[i], (uint32_t)where[i]);
        put32(dev->base + regs[i] + 4, (uint32_t)(where[i] >> 32));
    }
}

// Rings that are not in memory: all, one of them, in the device's own window,
// across the end of the address space, misaligned.
static void queues_nowhere(struct device *dev) {
    uint64_t desc = (uint64_t)rings.desc, avail = (uint64_t)&rings.avail, used = (uint64_t)&rings.used;
    const uint64_t places[][3] = {
        {NOWHERE, NOWHERE, NOWHERE}, {NOWHERE, avail, used},       {desc, NOWHERE, used},
        {desc, avail, NOWHERE},      {dev->base, dev->base, dev->base},
        {~0ull - 15, ~0ull - 1, ~0ull - 3}, {desc + 1, avail + 1, used + 1},
    };
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        negotiate(dev);
        enable_queue(dev, 0);
        put32(dev->base + QUEUE_READY, 0);
        place_queue(dev, places[i][0], places[i][1], places[i][2]);
        put32(dev->base + QUEUE_READY, 1);
        go_live(dev);
        set_desc(0, sector, 16, DESC_WRITE);
        offer_and_forget(dev);
    }
}

static void descriptor_loop(struct device *dev) {
    start_device(dev, 0);
    for (unsigned i = 0; i < QUEUE_SIZE; i++)
        set_desc(i, sector, 16, DESC_NEXT | (i ? DESC_WRITE : 0));
    rings.desc[QUEUE_SIZE - 1].next = 0;
    offer_and_forget(dev);
    start_device(dev, 0);
    set_desc(0, sector, 16, DESC_NEXT);
    rings.desc[0].next = 0; // the shortest loop
    offer_and_forget(dev);
}

static void wild_descriptors(struct device *dev) {
    static const struct desc wild[] = {
        {NOWHERE, 512, DESC_WRITE, 0},
        {~0ull, ~0u, DESC_WRITE, 0},
        {~0ull, ~0u, 0, 0},
        {0, 0, 0, 0},
        {0x100000, 0, DESC_WRITE, 0},
        {0x100000, 16, DESC_NEXT, 0xffff},
        {0x100000, 16, DESC_NEXT, QUEUE_SIZE},
        {0x100000, 16, DESC_INDIRECT, 0},
        {0x100000, 17, DESC_INDIRECT | DESC_NEXT | DESC_WRITE, 1},
        {NOWHERE, 0xfffffff0, DESC_INDIRECT, 0},
        {0x100000, 16, 0xffff, 0xffff},
    };
    for (unsigned i = 0; i < sizeof wild / sizeof *wild; i++) {
        start_device(dev, 0);
        rings.desc[0] = wild[i];
        offer_and_forget(dev);
    }
}

// A block request whose parts are missing, too short or the wrong way round.
static void broken_requests(struct device *dev) {
    static const uint32_t header[4];
    for (unsigned way = 0; way < 6; way++) {
        start_device(dev, 0);
        prepare_block(BLK_IN, 0, sector, SECTOR_SIZE);
        switch (way) {
        case 0: rings.desc[0].flags = 0; break;             // a header and nothing else
        case 1: rings.desc[1].flags = DESC_WRITE; break;    // no status byte
        case 2: rings.desc[1].flags = DESC_NEXT; break;     // read into readable memory
        case 3: rings.desc[2].flags = 0; break;             // a status that cannot be written
        case 4: set_desc(0, header, 3, DESC_NEXT); break;   // a header of three bytes
        case 5: rings.desc[1].len = 0xffffffff; break;      // more data than memory
        }
        offer_and_forget(dev);
    }
}

static void jumping_ring(struct device *dev) {
    for (unsigned jump = 1; jump < 0x10000; jump = jump * 4 + 3) {
        start_device(dev, 0);
        set_desc(0, sector, 16, DESC_WRITE);
        for (unsigned i = 0; i < QUEUE_SIZE; i++)
            rings.avail.ring[i] = (uint16_t)(0xffff - i);
        rings.avail.idx = (uint16_t)jump;
        put32(dev->base + QUEUE_NOTIFY, 0);
    }
}

static void reset_in_flight(struct device *dev) {
    for (unsigned i = 0; i < 64; i++) {
        start_device(dev, 0);
        prepare_block(BLK_IN, i % 2, sector, SECTOR_SIZE);
        offer_and_forget(dev);
        put32(dev->base + STATUS, 0);
    }
}

// All that is frozen at DRIVER_OK, changed afterwards (virtio 1.2 §4.2.2.2).
static void change_live_queue(struct device *dev) {
    static const uint32_t sizes[] = {0, 1, 3, 256, 32768, 0xffffffff};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        start_device(dev, 0);
        put32(dev->base + QUEUE_SEL, 0);
        put32(dev->base + QUEUE_NUM, sizes[i]);
        place_queue(dev, NOWHERE, NOWHERE, NOWHERE);
        set_desc(0, sector, 16, DESC_WRITE);
        offer_and_forget(dev);
        put32(dev->base + QUEUE_READY, 0);
        offer_and_forget(dev);
        put32(dev->base + QUEUE_READY, 1);
        offer_and_forget(dev);
    }
}

static void late_features(struct device *dev) {
    for (unsigned live = 0; live < 2; live++) {
        negotiate(dev);
        enable_queue(dev, 0);
        if (live)
            go_live(dev);
        for (unsigned sel = 0; sel < 5; sel++) {
            put32(dev->base + DRIVER_FEATURES_SEL, sel);
            put32(dev->base + DRIVER_FEATURES, ~0u);
        }
        set_desc(0, sector, 16, DESC_WRITE);
        offer_and_forget(dev);
    }
}

// States out of order, queues and doorbells that do not exist.
static void wild_states(struct device *dev) {
    for (unsigned status = 0; status < 0x100; status++) {
        put32(dev->base + STATUS, status);
        put32(dev->base + QUEUE_SEL, status << 8 | status);
        put32(dev->base + QUEUE_READY, status);
        put32(dev->base + QUEUE_NOTIFY, status << 24 | status);
        put32(dev->base + INTERRUPT_ACK, ~status);
    }
    start_device(dev, 0);
    for (unsigned queue = 0; queue < 0x20000; queue = queue * 3 + 1)
        put32(dev->base + QUEUE_NOTIFY, queue);
}

static const struct {
    const char *name;
    void (*commit)(struct device *dev);
} acts[ACTS] = {
    {"nonsense in every register", nonsense_registers},
    {"doorbells without memory", queues_nowhere},
    {"descriptor loops", descriptor_loop},
    {"wild descriptors", wild_descriptors},
    {"broken requests", broken_requests},
    {"a jumping ring index", jumping_ring},
    {"resets in flight", reset_in_flight},
    {"a live queue changed", change_live_queue},
    {"features after FEATURES_OK", late_features},
    {"states out of order", wild_states},
};

const char *misbehave(struct device *dev, unsigned act) {
    acts[act - 1].commit(dev);
    return acts[act - 1].name;
}
