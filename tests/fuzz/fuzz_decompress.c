/* SPDX-License-Identifier: Apache-2.0 */
/* Every decompressor, with a small bound so that bombs are cheap. The first bytes pick the hint. */
#include <stdlib.h>
#include <string.h>

#include "boot/decompress.h"

#define UNPACKED_MAX ((size_t)1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint32_t hint;
    uint8_t *out;
    size_t n;

    if (size < sizeof(hint))
        return 0;
    memcpy(&hint, data, sizeof(hint));
    if (decompress(data + sizeof(hint), size - sizeof(hint), UNPACKED_MAX, hint, &out, &n, NULL) ==
        0) {
        if (n > UNPACKED_MAX)
            abort();
        free(out);
    }
    return 0;
}
