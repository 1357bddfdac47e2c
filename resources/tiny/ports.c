// Writes to the serial port's scratch register n times (`n=` in the command
// line, 20,000 by default): one exit to user space each. The time between the
// two lines divided by n is the cost of a port exit.
#include "guest.h"

#define COM1_SCRATCH 0x3ff

void guest_main(const struct start_info *info) {
    uint64_t n = option(info, "n=", 20000);
    say("ports: begin\n");
    for (uint64_t i = 0; i < n; i++)
        out8(COM1_SCRATCH, (uint8_t)i);
    say("ports: end ");
    say_number(n);
    say("\n");
    leave();
}
