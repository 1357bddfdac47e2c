// Resets the machine at once.
#include "pvh.h"
        .code32
        pvh_note start
        .globl  start
start:  reset_or_fault
