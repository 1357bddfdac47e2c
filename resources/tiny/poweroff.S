// Says goodbye and enters S5 by the sleep control register of hardware-reduced
// ACPI (ACPI 6.5 §4.8.3.7): SLP_TYP 5 in bits 2..4, SLP_EN in bit 5.
#include "pvh.h"
#define SLEEP_CONTROL   0x600
#define S5_ENABLE       ((5 << 2) | (1 << 5))
        .code32
        pvh_note start
        .globl  start
start:  say     line, line_end
        mov     $SLEEP_CONTROL, %dx
        mov     $S5_ENABLE, %al
        out     %al, %dx
        say     alive, alive_end        // a machine without that register
        triple_fault

        .section .rodata
line:   .ascii  "powering off\n"
line_end:
alive:  .ascii  "still alive\n"
alive_end:
