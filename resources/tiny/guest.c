#include "guest.h"

#define COM1 0x3f8
#define I8042_COMMAND 0x64
#define I8042_RESET 0xfe

void say_bytes(const void *bytes, size_t len) {
    const uint8_t *next = bytes;
    while (len--)
        out8(COM1, *next++);
}

void say(const char *text) {
    while (*text)
        out8(COM1, (uint8_t)*text++);
}

static void say_in_base(uint64_t value, unsigned base) {
    char digits[20];
    size_t first = sizeof digits;
    do {
        digits[--first] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    say_bytes(digits + first, sizeof digits - first);
}

void say_number(uint64_t value) { say_in_base(value, 10); }
void say_hex(uint64_t value) { say_in_base(value, 16); }

const char *find_word(const char *from, const char *key) {
    for (bool word_starts = true; *from; from++) {
        if (word_starts) {
            const char *text = from, *want = key;
            while (*want && *text == *want)
                text++, want++;
            if (!*want)
                return text;
        }
        word_starts = *from == ' ';
    }
    return NULL;
}

const char *parse_number(const char *text, uint64_t *value) {
    unsigned base = 10;
    if (text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
    }
    for (*value = 0;; text++) {
        unsigned digit = (unsigned)(*text - '0');
        if (digit > 9)
            digit = *text >= 'a' ? (unsigned)(*text - 'a' + 10) : base;
        if (digit >= base)
            return text;
        *value = *value * base + digit;
    }
}

uint64_t option(const struct start_info *info, const char *key, uint64_t otherwise) {
    const char *text = info->cmdline ? find_word((const char *)info->cmdline, key) : NULL;
    if (text)
        parse_number(text, &otherwise);
    return otherwise;
}

#define TABLE_FLAGS 0x07 // present, writable, user
#define LEAF_2M_FLAGS 0x87
#define SIZE_2M (2ull << 20)

void map_gib(unsigned gib, void *table) {
    extern volatile uint64_t pdpt[512];
    volatile uint64_t *leaf = table;
    // Filled before it is linked in: writes to a table in use may be trapped.
    for (uint64_t addr = gib * GIB; addr < (gib + 1) * GIB; addr += SIZE_2M)
        *leaf++ = addr | LEAF_2M_FLAGS;
    pdpt[gib] = (uint64_t)table | TABLE_FLAGS;
}

void leave(void) {
    out8(I8042_COMMAND, I8042_RESET);
    // Some VMMs take a while. Without such a controller, its port reads as ones.
    while (in8(I8042_COMMAND) != 0xff)
        ;
    for (;;)
        __asm__ volatile("ud2");
}
