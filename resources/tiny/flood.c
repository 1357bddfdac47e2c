// Writes `n=` bytes (1 MiB by default) to the serial port, as fast as it takes
// them, and resets.
#include "guest.h"

#define LINE 64u

void guest_main(const struct start_info *info) {
    static const char line[LINE + 1] = "The guest talks and talks, whether anybody listens to it or not\n";
    uint64_t n = option(info, "n=", 1 << 20);

    while (n) {
        uint64_t count = n < LINE ? n : LINE;
        const char *from = line;
        n -= count;
        __asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"((uint16_t)0x3f8) : "memory");
    }
    leave();
}
