// Writes to one byte in every page of memory above itself, as the PVH memory
// map names them, and counts them.
#include "guest.h"

#define MAX_GIB 512u // what one page directory pointer table reaches

static uint64_t touch(uint64_t from, uint64_t to) {
    uint64_t pages = 0;
    for (uint64_t page = from; page < to; page += PAGE, pages++)
        put8(page, 1);
    return pages;
}

void guest_main(const struct start_info *info) {
    const struct memmap_entry *map = (const void *)info->memmap;
    // Behind this program: a page table for each gigabyte. Below are the map
    // and the command line.
    uint8_t *table = guest_end;
    uint64_t lowest = (uint64_t)guest_end + MAX_GIB * PAGE, pages = 0;

    map_gib(0, table);
    say("touch: begin\n");
    for (uint32_t i = 0; i < info->memmap_entries; i++) {
        uint64_t from = (map[i].addr + PAGE - 1) & ~(PAGE - 1);
        uint64_t to = (map[i].addr + map[i].size) & ~(PAGE - 1);
        if (map[i].type != MEMMAP_RAM || to > MAX_GIB * GIB)
            continue;
        if (from < lowest)
            from = lowest;
        for (uint64_t gib = from / GIB; from < to && gib <= (to - 1) / GIB; gib++)
            if (gib)
                map_gib((unsigned)gib, table + gib * PAGE);
        pages += from < to ? touch(from, to) : 0;
    }
    say("touch: end ");
    say_number(pages);
    say("\n");
    leave();
}
