// What every tiny guest shares: the note that makes an ELF file a PVH kernel,
// and the ways out of the machine.
//
// A PVH entry point runs in 32-bit protected mode without paging, flat
// segments, interrupts off, and EBX pointing at the hvm_start_info
// (Xen, docs/misc/pvh.pandoc).

#define COM1            0x3f8
#define I8042_COMMAND   0x64
#define I8042_RESET     0xfe
#define NOTE_PHYS32     18      // XEN_ELFNOTE_PHYS32_ENTRY

// Names `start` as the PVH entry point.
.macro pvh_note start
        .pushsection .note.pvh, "a", @note
        .balign 4
        .long   4, 4, NOTE_PHYS32
        .asciz  "Xen"
        .long   \start
        .popsection
.endm

// Sends the bytes from `text` to `text_end` to the serial port. It does not
// wait for the line to be free: a virtual UART always is.
.macro say text, text_end
        mov     $\text, %esi
        mov     $(\text_end - \text), %ecx
        mov     $COM1, %dx
        cld
        rep outsb
.endm

// An exception that finds no handler, nor a double fault handler.
.macro triple_fault
        lidt    no_idt
        ud2
.endm

// Asks the keyboard controller for a reset and leaves the vCPU to its fate: some
// VMMs take a while. Where there is no such controller, its port reads as ones.
.macro reset_or_fault
        mov     $I8042_RESET, %al
        out     %al, $I8042_COMMAND
        in      $I8042_COMMAND, %al
        inc     %al
        jz      2f
1:      hlt
        jmp     1b
2:      triple_fault
.endm

.section .rodata
no_idt: .word   0
        .quad   0
.text
