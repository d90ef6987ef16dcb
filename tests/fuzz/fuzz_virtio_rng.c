/* SPDX-License-Identifier: Apache-2.0 */
/* The queue walker, through the simplest device. */
#include "fuzz_virtio.h"
#include "virtio/rng.h"

static struct virtio_device *make(struct mem *m, struct loop *l) {
    return virtio_rng_new(m, l, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_virtio(make, data, size);
}
