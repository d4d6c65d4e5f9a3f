/* The bytes are a safetensors file, or, if they begin with '{', its header: then the length before it is put right and zeros
   follow, so that the fuzzer need not find a checksum-like number to get further. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 0 && data[0] == '{') {
        size_t         tail = size > 1 ? (size_t)data[size - 1] * 4 : 0, i;
        unsigned char *file = (unsigned char *)malloc(8 + size + tail);
        if (file == NULL) {
            return 0;
        }
        for (i = 0; i < 8; i++) {
            file[i] = (unsigned char)((uint64_t)size >> 8 * i & 255);
        }
        memcpy(file + 8, data, size);
        file[8 + size - 1] = ' ';
        memset(file + 8 + size, 0, tail);
        fuzz_open(file, 8 + size + tail);
        free(file);
    } else {
        fuzz_open(data, size);
    }
    return 0;
}
