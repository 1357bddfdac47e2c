// The floor under a tiny guest in C: it runs at privilege level 3 (user.S),
// owns all of memory and every port, and has no interrupts and no library.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Xen, public/arch-x86/hvm/start_info.h
struct start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist, cmdline, rsdp, memmap;
    uint32_t memmap_entries, reserved;
};

struct memmap_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};
#define MEMMAP_RAM 1

// The guest itself: does its work, then leaves by `leave`.
_Noreturn void guest_main(const struct start_info *info);

static inline void out8(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

// Compilers reorder and merge plain accesses; devices must see each one.
static inline void put8(uint64_t addr, uint8_t value) { *(volatile uint8_t *)addr = value; }
static inline void put16(uint64_t addr, uint16_t value) { *(volatile uint16_t *)addr = value; }
static inline void put32(uint64_t addr, uint32_t value) { *(volatile uint32_t *)addr = value; }
static inline void put64(uint64_t addr, uint64_t value) { *(volatile uint64_t *)addr = value; }
static inline uint8_t get8(uint64_t addr) { return *(volatile uint8_t *)addr; }
static inline uint16_t get16(uint64_t addr) { return *(volatile uint16_t *)addr; }
static inline uint32_t get32(uint64_t addr) { return *(volatile uint32_t *)addr; }
static inline uint64_t get64(uint64_t addr) { return *(volatile uint64_t *)addr; }

void say(const char *text);
void say_bytes(const void *bytes, size_t len);
void say_number(uint64_t value);
void say_hex(uint64_t value);

// The number after `key` (which ends in '=') in the command line: decimal, or
// hexadecimal after 0x. `otherwise` when there is no such word.
uint64_t option(const struct start_info *info, const char *key, uint64_t otherwise);

// The rest of the command line after the first `key` at or after `from`, or NULL.
const char *find_word(const char *from, const char *key);
const char *parse_number(const char *text, uint64_t *value);

// Maps the gigabyte that starts at `gib` GiB to itself, its table kept in the
// 4 KiB at `table`. Everything above 2 MiB is unmapped until somebody does.
#define GIB (1ull << 30)
#define PAGE 4096ull
void map_gib(unsigned gib, void *table);

// The first byte of memory behind the guest's own, on a page boundary.
extern uint8_t guest_end[];

// Resets the machine; a triple fault for one without a keyboard controller.
_Noreturn void leave(void);
