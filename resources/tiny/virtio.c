// Drives every virtio-mmio device it finds, and says what each answered. With
// `misbehave=N` it commits the N-th of the acts in misbehave.c on each device,
// with `misbehave=all` all of them, and after each sees whether the device
// still works.
#include "misbehave.h"
#include "requests.h"

static void misbehave_and_check(struct device *dev, unsigned act) {
    say(device_name(dev));
    say(": ");
    say_number(act);
    say(": ");
    say(misbehave(dev, act));
    say(alive(dev) ? ": alive\n" : ": dead\n");
}

void guest_main(const struct start_info *info) {
    const char *word = info->cmdline ? find_word((const char *)info->cmdline, "misbehave=") : NULL;
    uint64_t chosen = option(info, "misbehave=", 0);
    unsigned count = find_devices(info);

    say("virtio: devices: ");
    say_number(count);
    say("\n");
    for (unsigned i = 0; i < count; i++) {
        if (!word)
            tour(&devices[i]);
        for (unsigned act = 1; word && act <= ACTS; act++)
            if (*word == 'a' || act == chosen)
                misbehave_and_check(&devices[i], act);
        reset_device(&devices[i]);
    }
    say("virtio: done\n");
    leave();
}
