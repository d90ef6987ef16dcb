/* SPDX-License-Identifier: Apache-2.0 */
/* VDI metadata. */
#include "fuzz_volume.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return size > FUZZ_FILE_MAX ? 0 : fuzz_volume(&volume_vdi, data, size);
}
