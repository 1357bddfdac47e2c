// Rings the doorbell of the first virtio-mmio device n times (`n=`, 20,000 by
// default), then has an entropy device answer n/4 requests one after another.
// The times between the lines, divided by n and n/4, are the cost of a doorbell
// and of a round trip through the device. Without any device it rings where the
// first one would be.
#include "virtio-mmio.h"

static void report(const char *what, uint64_t n) {
    say(what);
    say_number(n);
    say("\n");
}

static void ring(const struct device *dev, uint64_t n) {
    say("doorbell: begin\n");
    for (uint64_t i = 0; i < n; i++)
        put32(dev->base + QUEUE_NOTIFY, 0);
    report("doorbell: end ", n);
}

static void round_trips(const struct device *dev, uint64_t n) {
    static uint8_t random[4];
    uint64_t done = 0;
    say("round trip: begin\n");
    set_desc(0, random, sizeof random, DESC_WRITE);
    while (done < n && request(dev, 0))
        done++;
    report("round trip: end ", done);
}

void guest_main(const struct start_info *info) {
    static struct device nobody = {.base = 0xc0001000};
    uint64_t n = option(info, "n=", 20000);
    unsigned count = find_devices(info), i = 0;

    while (i < count && devices[i].id != ENTROPY)
        i++;
    if (i < count && start_device(&devices[i], 0)) {
        ring(&devices[i], n);
        round_trips(&devices[i], n / 4);
    } else {
        say("doorbell: no entropy device\n");
        ring(&nobody, n);
    }
    leave();
}
