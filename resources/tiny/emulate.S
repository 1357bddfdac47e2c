// Reads device memory with an instruction that KVM's interpreter lacks, in
// kernel mode: no KVM of any kind can go on from here.
#include "pvh.h"
#define NO_DEVICE       0xd0000000      // in the MMIO gap, and nobody's
#define CR0_MP          (1 << 1)
#define CR0_EM          (1 << 2)
#define CR4_OSFXSR      (1 << 9)
        .code32
        pvh_note start
        .globl  start
start:  mov     %cr0, %eax
        and     $~CR0_EM, %eax
        or      $CR0_MP, %eax
        mov     %eax, %cr0
        mov     %cr4, %eax
        or      $CR4_OSFXSR, %eax
        mov     %eax, %cr4
        mov     $0x6b6f7961, %esi       // to be found in a register dump
        addps   NO_DEVICE, %xmm0
        reset_or_fault
