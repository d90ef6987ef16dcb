/* SPDX-License-Identifier: Apache-2.0 */
/* Page numbers, reports and statistics that a guest makes up. */
#include "fuzz_virtio.h"
#include "virtio/balloon.h"

static struct virtio_device *make(struct mem *m, struct loop *l) {
    return virtio_balloon_new(m, l, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_virtio(make, data, size);
}
