/* The bytes are a .pth file, or, if they do not begin with "PK", the pickle inside one: then a zip with two storages is put
   around them, so that the fuzzer works on the stack machine and not on offsets. */
#include "fuzz.h"

static unsigned char *put_int(unsigned char *p, uint64_t value, int bytes) {
    for (; bytes > 0; bytes--, value >>= 8) {
        *p++ = (unsigned char)(value & 255);
    }
    return p;
}

static unsigned char *put_bytes(unsigned char *p, const void *bytes, size_t n) {
    memcpy(p, bytes, n);
    return p + n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const   names[] = { "m/data.pkl", "m/data/0", "m/data/1" };
    static const unsigned char zeros[64] = { 0 };
    const void                *contents[3];
    size_t                     sizes[3], at[3], i;
    unsigned char             *file, *p, *dir;
    if (size >= 2 && data[0] == 'P' && data[1] == 'K') {
        fuzz_open(data, size);
        return 0;
    }
    if (size > 1 << 20 || (file = (unsigned char *)malloc(size + 1024)) == NULL) {
        return 0;
    }
    contents[0] = data;
    sizes[0]    = size;
    contents[1] = zeros;
    sizes[1]    = 64;
    contents[2] = zeros;
    sizes[2]    = 0;
    for (p = file, i = 0; i < 3; i++) {
        at[i] = (size_t)(p - file);
        p = put_bytes(p, "PK\3\4", 4);
        p = put_bytes(p, zeros, 14);
        p = put_int(p, sizes[i], 4);
        p = put_int(p, sizes[i], 4);
        p = put_int(p, strlen(names[i]), 4);
        p = put_bytes(p, names[i], strlen(names[i]));
        p = put_bytes(p, contents[i], sizes[i]);
    }
    for (dir = p, i = 0; i < 3; i++) {
        p = put_bytes(p, "PK\1\2", 4);
        p = put_bytes(p, zeros, 16);
        p = put_int(p, sizes[i], 4);
        p = put_int(p, sizes[i], 4);
        p = put_int(p, strlen(names[i]), 4);
        p = put_bytes(p, zeros, 10);
        p = put_int(p, at[i], 4);
        p = put_bytes(p, names[i], strlen(names[i]));
    }
    i = (size_t)(p - dir);
    p = put_bytes(p, "PK\5\6\0\0\0\0\3\0\3", 11);
    p = put_int(p, 0, 1);
    p = put_int(p, i, 4);
    p = put_int(p, (uint64_t)(dir - file), 4);
    p = put_int(p, 0, 2);
    {   /* from a block of exactly its size */
        size_t         n = (size_t)(p - file);
        unsigned char *exact = (unsigned char *)malloc(n);
        if (exact != NULL) {
            memcpy(exact, file, n);
            fuzz_open(exact, n);
            free(exact);
        }
    }
    free(file);
    return 0;
}
