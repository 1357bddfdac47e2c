// Says that it is there, then spins in user mode for good.
#include "guest.h"

void guest_main(const struct start_info *info) {
    (void)info;
    say("spinning\n");
    for (;;)
        __asm__ volatile("" ::: "memory");
}
