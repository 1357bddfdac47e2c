// Says that it is there, then halts with interrupts off, for good.
#include "pvh.h"
        .code32
        pvh_note start
        .globl  start
start:  say     line, line_end
        cli
1:      hlt
        jmp     1b

        .section .rodata
line:   .ascii  "halted\n"
line_end:
