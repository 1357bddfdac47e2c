// Writes back every byte that arrives at the serial port, until a 'q'.
#include "guest.h"

#define COM1 0x3f8
#define LINE_STATUS (COM1 + 5)
#define DATA_READY 1

void guest_main(const struct start_info *info) {
    (void)info;
    say("echo: ready\n");
    for (;;) {
        if (!(in8(LINE_STATUS) & DATA_READY))
            continue;
        uint8_t byte = in8(COM1);
        if (byte == 'q')
            break;
        out8(COM1, byte);
    }
    say("echo: bye\n");
    leave();
}
