// One good request for each type of device, to use it and to see whether it
// is still in its right mind.
#pragma once

#include "virtio-mmio.h"

// Drives the device once through all it can do and says what came of it.
void tour(struct device *dev);

// Starts the device and has it answer one request; true when it does.
bool alive(struct device *dev);

const char *device_name(const struct device *dev);

// The chain of a block request: header, data, status (virtio 1.2 §5.2.6).
enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8 };
enum { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPPORTED = 2, BLK_UNANSWERED = 0xff };
#define SECTOR_SIZE 512u
extern uint8_t sector[SECTOR_SIZE];
void prepare_block(uint32_t type, uint64_t sector_number, void *data, uint32_t len);
