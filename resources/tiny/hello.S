// Says one line on the serial port and resets the machine.
#include "pvh.h"
        .code32
        pvh_note start
        .globl  start
start:  say     line, line_end
        reset_or_fault

        .section .rodata
line:   .ascii  "hello from a tiny guest\n"
line_end:
