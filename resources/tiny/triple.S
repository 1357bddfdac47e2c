// Triple-faults at once.
#include "pvh.h"
        .code32
        pvh_note start
        .globl  start
start:  triple_fault
