/* SPDX-License-Identifier: Apache-2.0 */
/* VHD metadata: footer, header, table; their checksums are made right. */
#include "fuzz_volume.h"

#include "block/bytes_be.h"

static void seal(uint8_t *p, size_t len, size_t at) {
    uint32_t sum = 0;

    memset(p + at, 0, 4);
    for (size_t i = 0; i < len; i++)
        sum += p[i];
    be32_put(p + at, ~sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cleanup_free uint8_t *copy = NULL;

    if (size < 2048 || size > FUZZ_FILE_MAX)
        return 0;
    copy = xcalloc(1, size);
    memcpy(copy, data, size);
    memcpy(copy, "conectix", 8);
    seal(copy, 512, 64);
    seal(copy + 512, 1024, 36);
    seal(copy + size - 512, 512, 64);
    return fuzz_volume(&volume_vhd, copy, size);
}
