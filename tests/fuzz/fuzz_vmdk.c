/* SPDX-License-Identifier: Apache-2.0 */
/* VMDK: images in one file as such, others as the text of a descriptor, whose files are not opened.
 */
#include "fuzz_volume.h"

#include "block/vmdk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cleanup_free char *text = NULL, *type = NULL;
    struct vmdk_extent x;
    const char *at;

    if (size > FUZZ_FILE_MAX)
        return 0;
    if (vmdk_sparse_probe(data, size))
        return fuzz_volume(&volume_vmdk, data, size);
    at = text = xcalloc(1, size + 1);
    memcpy(text, data, size);
    type = vmdk_value(text, "createType");
    vmdk_judge_text(text, NULL);
    while (vmdk_next_extent(&at, &x, NULL) == 1)
        ;
    return 0;
}
