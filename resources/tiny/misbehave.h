// What a hostile driver does.
#pragma once

#include "virtio-mmio.h"

#define ACTS 10u

// Commits act 1..=ACTS on the device and returns its name.
const char *misbehave(struct device *dev, unsigned act);
