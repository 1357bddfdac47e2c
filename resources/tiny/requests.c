#include "requests.h"

#define BLK_F_RO (1u << 5)
#define NET_TX_QUEUE 1
#define NET_HEADER 12u
#define SHORTEST_FRAME 60u
#define ID_LENGTH 20u
#define SAMPLE 16u

static struct {
    uint32_t type, reserved;
    uint64_t sector;
} header;
static volatile uint8_t status;
uint8_t sector[SECTOR_SIZE];

const char *device_name(const struct device *dev) {
    switch (dev->id) {
    case NET: return "net";
    case BLOCK: return "block";
    case ENTROPY: return "entropy";
    default: return "other";
    }
}

static unsigned used_queue(const struct device *dev) {
    return dev->id == NET ? NET_TX_QUEUE : 0;
}

void prepare_block(uint32_t type, uint64_t sector_number, void *data, uint32_t len) {
    unsigned i = 0;
    header.type = type;
    header.sector = sector_number;
    status = BLK_UNANSWERED;
    set_desc(i++, &header, sizeof header, DESC_NEXT);
    if (len)
        set_desc(i++, data, len, type == BLK_OUT ? DESC_NEXT : DESC_NEXT | DESC_WRITE);
    set_desc(i, (const void *)&status, 1, DESC_WRITE);
}

static uint8_t block(const struct device *dev, uint32_t type, uint64_t number, void *data, uint32_t len) {
    prepare_block(type, number, data, len);
    return request(dev, 0) ? status : BLK_UNANSWERED;
}

static bool send_frame(const struct device *dev) {
    static uint8_t frame[NET_HEADER + SHORTEST_FRAME];
    for (unsigned i = 0; i < 6; i++) {
        frame[NET_HEADER + i] = 0xff;
        frame[NET_HEADER + 6 + i] = get8(dev->base + CONFIG + i);
    }
    frame[NET_HEADER + 12] = 0x88; // 0x88b5: for local experiments (IEEE 802)
    frame[NET_HEADER + 13] = 0xb5;
    set_desc(0, frame, sizeof frame, 0);
    return request(dev, NET_TX_QUEUE);
}

bool alive(struct device *dev) {
    if (!start_device(dev, used_queue(dev)))
        return false;
    switch (dev->id) {
    case BLOCK: return block(dev, BLK_IN, 0, sector, SECTOR_SIZE) == BLK_OK;
    case NET: return send_frame(dev);
    case ENTROPY:
        set_desc(0, sector, SAMPLE, DESC_WRITE);
        return request(dev, 0);
    default: return true;
    }
}

static void verdict(const char *what, uint8_t status) {
    say(what);
    say(status == BLK_OK            ? "ok\n"
        : status == BLK_IOERR       ? "refused\n"
        : status == BLK_UNSUPPORTED ? "unsupported\n"
                                    : "no answer\n");
}

static void say_text(const uint8_t *bytes, size_t len) {
    for (; len--; bytes++)
        out8(0x3f8, *bytes >= ' ' && *bytes < 0x7f ? *bytes : '.');
    say("\n");
}

// Writes the last sector, flushes, and reads it back.
static void write_and_compare(const struct device *dev, uint64_t last) {
    bool same = true;
    for (unsigned i = 0; i < SECTOR_SIZE; i++)
        sector[i] = (uint8_t)(i * 7 + 1);
    verdict("block: write: ", block(dev, BLK_OUT, last, sector, SECTOR_SIZE));
    verdict("block: flush: ", block(dev, BLK_FLUSH, 0, NULL, 0));
    for (unsigned i = 0; i < SECTOR_SIZE; i++)
        sector[i] = 0;
    verdict("block: read back: ", block(dev, BLK_IN, last, sector, SECTOR_SIZE));
    for (unsigned i = 0; i < SECTOR_SIZE; i++)
        same &= sector[i] == (uint8_t)(i * 7 + 1);
    say(same ? "block: the same bytes\n" : "block: other bytes\n");
}

static void tour_block(const struct device *dev) {
    uint64_t sectors = get32(dev->base + CONFIG) | (uint64_t)get32(dev->base + CONFIG + 4) << 32;
    say("block: sectors: ");
    say_number(sectors);
    say(dev->features & BLK_F_RO ? ", read-only\n" : "\n");
    if (block(dev, BLK_IN, 0, sector, SECTOR_SIZE) == BLK_OK) {
        say("block: sector 0: ");
        say_text(sector, SAMPLE);
    }
    if (block(dev, BLK_GET_ID, 0, sector, ID_LENGTH) == BLK_OK) {
        say("block: id: ");
        for (size_t len = 0; len < ID_LENGTH && sector[len]; len++)
            say_bytes(sector + len, 1);
        say("\n");
    }
    verdict("block: read past the end: ", block(dev, BLK_IN, sectors, sector, SECTOR_SIZE));
    verdict("block: unknown request: ", block(dev, 0x7fff, 0, sector, SECTOR_SIZE));
    write_and_compare(dev, sectors - 1);
}

static void tour_entropy(const struct device *dev) {
    set_desc(0, sector, SAMPLE, DESC_WRITE);
    if (!request(dev, 0)) {
        say("entropy: no answer\n");
        return;
    }
    say("entropy: bytes: ");
    say_number(rings.used.ring[0].len);
    say(", first: ");
    say_hex(*(uint64_t *)sector);
    say("\n");
}

static void tour_net(const struct device *dev) {
    say("net: mac:");
    for (unsigned i = 0; i < 6; i++) {
        say(" ");
        say_hex(get8(dev->base + CONFIG + i));
    }
    say(send_frame(dev) ? "\nnet: a frame: sent\n" : "\nnet: a frame: no answer\n");
}

void tour(struct device *dev) {
    if (!start_device(dev, used_queue(dev))) {
        say(device_name(dev));
        say(": does not start\n");
        return;
    }
    switch (dev->id) {
    case BLOCK: tour_block(dev); break;
    case NET: tour_net(dev); break;
    case ENTROPY: tour_entropy(dev); break;
    }
}
