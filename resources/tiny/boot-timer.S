// Tells the boot timer that the guest is up, says so, and resets.
#include "pvh.h"
#define BOOT_TIMER      0xc0000000      // first page of the 32-bit MMIO window
#define BOOT_COMPLETE   123
        .code32
        pvh_note start
        .globl  start
start:  movb    $BOOT_COMPLETE, BOOT_TIMER
        say     line, line_end
        reset_or_fault

        .section .rodata
line:   .ascii  "boot timer rung\n"
line_end:
