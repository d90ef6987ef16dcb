/* SPDX-License-Identifier: Apache-2.0 */
/* The setup header of any bytes, and the payload that it names. */
#include <stdlib.h>

#include "boot/bzimage.h"
#include "boot/image.h"

#define UNPACKED_MAX ((size_t)1 << 22)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct bzimage k;
    uint8_t *out;
    size_t n;

    image_identify(data, size);
    if (bzimage_parse(&k, data, size, NULL) == 0 &&
        bzimage_payload(&k, UNPACKED_MAX, &out, &n, NULL) == 0)
        free(out);
    return 0;
}
