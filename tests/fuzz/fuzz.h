/* What the fuzz targets share. A target is one function, LLVMFuzzerTestOneInput; with -fsanitize=fuzzer libFuzzer calls it, with
   -DFUZZ_MAIN the main below runs it over the files named on the command line, which is how a finding is reproduced:
       cc -g -O1 -DFUZZ_MAIN -fsanitize=address,undefined -I. tests/fuzz/fuzz_pth.c -o build/fuzz_pth -lm && build/fuzz_pth FILE...
   Every target runs from the repository's root. */
#ifndef FUZZ_H
#define FUZZ_H

#define MAIL_IMPLEMENTATION
#include "mail.h"

#ifdef __cplusplus
extern "C"
#endif
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_ASSERT(condition)                                                       \
    do {                                                                             \
        if (!(condition)) {                                                          \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);          \
            abort();                                                                 \
        }                                                                            \
    } while (0)

/* ---- an allocator that knows how much is out ------------------------------------------------------------------------- */

static size_t fuzz_live, fuzz_peak;

MAILP_UNUSED static void *fuzz_alloc(void *user, size_t size) {
    unsigned char *raw = (unsigned char *)malloc(size + 192), *p;
    (void)user;
    if (raw == NULL) {
        return NULL;
    }
    p = raw + 128 - (uintptr_t)(raw + 64) % 64;
    memcpy(p - 16, &raw, sizeof raw);
    memcpy(p - 24, &size, sizeof size);
    fuzz_live += size;
    fuzz_peak = fuzz_live > fuzz_peak ? fuzz_live : fuzz_peak;
    return p;
}

MAILP_UNUSED static void fuzz_free(void *user, void *memory) {
    unsigned char *raw;
    size_t         size;
    (void)user;
    if (memory != NULL) {
        memcpy(&raw, (unsigned char *)memory - 16, sizeof raw);
        memcpy(&size, (unsigned char *)memory - 24, sizeof size);
        fuzz_live -= size;
        free(raw);
    }
}

/* Open a file and use everything in it; what mail.h promises of every file must hold. */
MAILP_UNUSED static void fuzz_open(const uint8_t *data, size_t size) {
    mail_allocator a;
    mail_tensors  *t;
    mail_error     err;
    mail_status    status;
    size_t         i;
    a.user  = NULL;
    a.alloc = fuzz_alloc;
    a.free  = fuzz_free;
    fuzz_live = fuzz_peak = 0;
    memset(&err, 0, sizeof err);
    status = mail_tensors_open_memory(&t, data, size, &a, &err);
    FUZZ_ASSERT(fuzz_peak <= 128 * size + 4096);
    if (status != MAIL_OK) {
        FUZZ_ASSERT(t == NULL && err.code == status && err.text[0] != 0 && fuzz_live == 0);
        return;
    }
    for (i = 0; i < mail_tensors_count(t); i++) {
        const mail_tensor *x = mail_tensors_at(t, i);
        float             *v;
        FUZZ_ASSERT(x->count <= size && x->n_dims <= MAIL_MAX_DIMS && mail_tensors_find(t, x->name) == x);
        FUZZ_ASSERT(i == 0 || strcmp(mail_tensors_at(t, i - 1)->name, x->name) < 0);
        v = (float *)malloc((size_t)x->count * sizeof *v + 1);
        if (v != NULL) {
            FUZZ_ASSERT(mail_tensor_read(x, v, (size_t)x->count, &err) == MAIL_OK);
        }
        free(v);
    }
    {
        mailp_config cfg;
        (void)mailp_config_read(&cfg, t, NULL, 0, "the JSON configuration", &err);
    }
    mail_tensors_close(t);
    FUZZ_ASSERT(fuzz_live == 0);
}

#ifdef FUZZ_MAIN
int main(int argc, char **argv) {
    int i;
    for (i = 1; i < argc; i++) {
        unsigned char *data, *copy;
        size_t         size;
        mail_error     err;
        if (mailp_read_file(&data, &size, argv[i], NULL, &err)) {
            fprintf(stderr, "%s\n", err.text);
            continue;  /* also an empty file */
        }
        copy = (unsigned char *)malloc(size);  /* exactly as long as it is */
        memcpy(copy, data, size);
        mailp_free(NULL, data);
        (void)LLVMFuzzerTestOneInput(copy, size);
        free(copy);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
#endif

#endif
