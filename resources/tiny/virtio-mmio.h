// A virtio-mmio version 2 driver with one queue per device, enough to send a
// request and to wait for its end (virtio 1.2 §4.2, §2.7).
#pragma once

#include "guest.h"

// Registers, virtio 1.2 §4.2.2.
enum {
    MAGIC = 0x000,
    VERSION = 0x004,
    DEVICE_ID = 0x008,
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SEL = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SEL = 0x024,
    QUEUE_SEL = 0x030,
    QUEUE_NUM_MAX = 0x034,
    QUEUE_NUM = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050,
    INTERRUPT_STATUS = 0x060,
    INTERRUPT_ACK = 0x064,
    STATUS = 0x070,
    QUEUE_DESC = 0x080,
    QUEUE_DRIVER = 0x090,
    QUEUE_DEVICE = 0x0a0,
    CONFIG_GENERATION = 0x0fc,
    CONFIG = 0x100,
};
#define MAGIC_VALUE 0x74726976

// Status bits, virtio 1.2 §2.1.
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64 };

// Device types, virtio 1.2 §5.
enum { NET = 1, BLOCK = 2, ENTROPY = 4 };

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

#define QUEUE_SIZE 16u

// The one set of rings, for whichever device is being driven.
struct rings {
    struct desc desc[QUEUE_SIZE];
    struct {
        uint16_t flags, idx, ring[QUEUE_SIZE], used_event;
    } avail;
    struct {
        uint16_t flags, idx;
        struct {
            uint32_t id, len;
        } ring[QUEUE_SIZE];
        uint16_t avail_event;
    } __attribute__((aligned(4))) used;
};
extern struct rings rings;

struct device {
    uint64_t base;
    uint32_t id;
    uint32_t features; // the first 32 bits of what the device offers
};

#define MAX_DEVICES 32u
extern struct device devices[MAX_DEVICES];

// Fills `devices` and returns their number: those that the command line names
// (`virtio_mmio.device=SIZE@ADDRESS:IRQ`), or else those in the table of slots.
unsigned find_devices(const struct start_info *info);

// Resets the device and waits for it; false when it does not within a second or so.
bool reset_device(const struct device *dev);

// From reset to FEATURES_OK; then the queue with the rings above, and an empty one
// beside it for a network device; then DRIVER_OK.
bool negotiate(struct device *dev);
bool enable_queue(const struct device *dev, unsigned queue);
void go_live(const struct device *dev);
// All three. False when the device refuses.
bool start_device(struct device *dev, unsigned queue);

// Writes descriptor `i` of a chain; the last one has no DESC_NEXT.
void set_desc(unsigned i, const void *addr, uint32_t len, uint16_t flags);
// Offers the chain that starts at descriptor 0 and rings the doorbell.
void offer(const struct device *dev, unsigned queue);
// Waits until the device has used what was offered; false after a second or so.
bool wait_used(void);
bool request(const struct device *dev, unsigned queue);
