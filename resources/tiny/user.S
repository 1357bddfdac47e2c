// The way from a PVH entry to `guest_main` in C: 64-bit mode, privilege level 3.
//
// Hosts that virtualise with page tables alone run user mode at full speed and
// interpret kernel mode, so everything that loops runs as a user, with memory
// mapped to itself: the first 2 MiB here, more by `map_gib`, which needs no
// privilege because the tables are mapped too. Ports are open twice, by IOPL 3
// and by the bitmap of a task state segment: such hosts ignore the former, and
// QEMU's emulation of nested virtualisation the latter.
// There is no way back into kernel mode: any exception is a triple fault.
#include "pvh.h"
#define USER_CODE       (0x10 | 3)
#define USER_DATA       (0x18 | 3)
#define TASK            0x20
#define FLAGS_IOPL3     0x3002
#define TSS_SIZE        0x68
#define TSS_MAP_BASE    0x66            // where the TSS says where its bitmap is
#define PORTS           0x1000          // as many as the bitmap opens
#define PAGE_TABLE      0x07            // present, writable, user
#define PAGE_2M         0x87            // and a leaf
#define CR0_PG          (1 << 31)
#define CR4_PAE         (1 << 5)
#define EFER            0xc0000080
#define EFER_LME        (1 << 8)

        .code32
        pvh_note start
        .globl  start
start:  lgdt    gdt_pointer
        lidt    no_idt
        movl    $(pdpt + PAGE_TABLE), pml4
        movl    $(first_pd + PAGE_TABLE), pdpt
        movl    $PAGE_2M, first_pd
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $CR4_PAE, %eax
        mov     %eax, %cr4
        mov     $EFER, %ecx
        mov     $EFER_LME, %eax
        xor     %edx, %edx
        wrmsr
        mov     %cr0, %eax
        or      $CR0_PG, %eax
        mov     %eax, %cr0
        ljmp    $0x08, $long_mode

        .code64
long_mode:
        movw    $TSS_SIZE, tss + TSS_MAP_BASE
        mov     $TASK, %eax
        ltr     %ax
        mov     $USER_DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %ebx, %edi              // hvm_start_info, the only argument
        mov     $stack_top, %esp
        push    $USER_DATA
        push    $(stack_top - 8)        // as after a call (System V ABI §3.2.2)
        push    $FLAGS_IOPL3
        push    $USER_CODE
        push    $guest_main
        iretq

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00af9b000000ffff      // kernel code, 64 bits
        .quad   0x00affb000000ffff      // user code, 64 bits
        .quad   0x00cff3000000ffff      // user data
        .word   tss_end - tss - 1       // task: limit, base in pieces (guest.ld)
        .word   tss_base_0
        .byte   tss_base_16, 0x89, 0, tss_base_24
        .quad   0
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt

        .bss
        .balign 8
tss:    .skip   TSS_SIZE + PORTS / 8 + 1
tss_end:
        .globl  tss
        .balign 4096
pml4:   .skip   4096
        .globl  pdpt
pdpt:   .skip   4096
first_pd:
        .skip   4096
stack:  .skip   4096
stack_top:
