/* Tensor files: safetensors and .pth, whole, damaged and hostile.    cc -O2 -I. -Itests tests/test_tensors.c -lm
   Run from the repository's root, or with the folder of tests/data as argument. Build with -fsanitize=address,undefined to
   make every read outside a file a failure: each file is opened from a block of exactly its size. */
#include <stdio.h>

/* A disk that fails when told: at finding out a size, or at reading. */
static enum { DISK_FINE, DISK_NO_SIZE, DISK_NO_READ } disk;

static long disk_ftell(FILE *f) {
    return disk == DISK_NO_SIZE ? -1 : ftell(f);
}

static size_t disk_fread(void *to, size_t size, size_t n, FILE *f) {
    const size_t got = fread(to, size, n, f);
    return disk == DISK_NO_READ && got > 0 ? got - 1 : got;
}

#define ftell disk_ftell
#define fread disk_fread
#define MAIL_IMPLEMENTATION
#include "mail.h"
#include "test.h"

static const char *data_folder = "tests/data";

/* ---- an allocator that counts, and fails when told ------------------------------------------------------------------ */

typedef struct {
    size_t live, peak, blocks, calls, fail_at;  /* fail_at: the call that fails, 1 is the first; 0: none */
} counter;

static void *counter_alloc(void *user, size_t size) {
    counter       *c = (counter *)user;
    unsigned char *raw, *p;
    if (++c->calls == c->fail_at) {
        return NULL;
    }
    raw = (unsigned char *)malloc(size + 192);
    if (raw == NULL) {
        return NULL;
    }
    p = raw + 128 - (uintptr_t)(raw + 64) % 64;  /* 64-byte aligned, at least 64 bytes before it */
    memcpy(p - 16, &raw, sizeof raw);
    memcpy(p - 8 - 16, &size, sizeof size);
    c->live += size;
    c->peak = c->live > c->peak ? c->live : c->peak;
    c->blocks++;
    return p;
}

static void counter_free(void *user, void *memory) {
    counter       *c = (counter *)user;
    unsigned char *raw;
    size_t         size;
    if (memory == NULL) {
        return;
    }
    memcpy(&raw, (unsigned char *)memory - 16, sizeof raw);
    memcpy(&size, (unsigned char *)memory - 8 - 16, sizeof size);
    c->live -= size;
    c->blocks--;
    free(raw);
}

static mail_allocator counter_allocator(counter *c) {
    mail_allocator a;
    memset(c, 0, sizeof *c);
    a.user  = c;
    a.alloc = counter_alloc;
    a.free  = counter_free;
    return a;
}

/* ---- bytes put together by hand -------------------------------------------------------------------------------------- */

typedef struct {
    unsigned char b[1 << 19];
    size_t        n;
} buffer;

static void put(buffer *o, const void *bytes, size_t n) {
    if (o->n + n > sizeof o->b) {
        abort();
    }
    memcpy(o->b + o->n, bytes, n);
    o->n += n;
}

static void put_int(buffer *o, unsigned long long value, int bytes) {
    unsigned char c;
    for (; bytes > 0; bytes--, value >>= 8) {
        c = (unsigned char)(value & 255);
        put(o, &c, 1);
    }
}

static void put_str(buffer *o, const char *text) {
    put(o, text, strlen(text));
}

/* Open a file from a block of exactly its size and look at everything in it. Checks what holds for every input: memory
   within its bound and all of it returned, an error with a text, sorted names. */
static mail_status open_bytes(const unsigned char *bytes, size_t n, mail_error *err, size_t fail_at) {
    counter        c;
    mail_allocator a = counter_allocator(&c);
    unsigned char *copy = (unsigned char *)malloc(n > 0 ? n : 1);
    mail_tensors  *t = (mail_tensors *)1;
    mail_status    status;
    size_t         i;
    memcpy(copy, bytes, n);
    c.fail_at = fail_at;
    memset(err, 0, sizeof *err);
    status = mail_tensors_open_memory(&t, copy, n, &a, err);
    if (status) {
        if (t != NULL || err->code != status || err->text[0] == 0 || c.blocks != 0) {
            CHECK_MSG(0, "status %d, code %d, text '%s', %lu blocks left", status, err->code, err->text, (unsigned long)c.blocks);
        }
    } else {
        for (i = 0; i < mail_tensors_count(t); i++) {
            const mail_tensor *x = mail_tensors_at(t, i);
            float             *v = (float *)malloc((size_t)x->count * sizeof *v + 1);
            if (mail_tensor_read(x, v, (size_t)x->count, err) || mail_tensors_find(t, x->name) != x || x->count > n ||
                (i > 0 && strcmp(mail_tensors_at(t, i - 1)->name, x->name) >= 0)) {
                CHECK_MSG(0, "tensor %lu, '%s'", (unsigned long)i, x->name);
            }
            free(v);
        }
        mail_tensors_close(t);
    }
    if (c.blocks != 0 || c.live != 0 || c.peak > 128 * n + 4096) {
        CHECK_MSG(0, "%lu blocks left, at most %lu bytes for a file of %lu", (unsigned long)c.blocks, (unsigned long)c.peak, (unsigned long)n);
    }
    free(copy);
    return status;
}

/* The status and a part of the text are as expected. */
static void expect(const char *what, const buffer *o, mail_status status, const char *text) {
    mail_error  err;
    mail_status found = open_bytes(o->b, o->n, &err, 0);
    CHECK_MSG(found == status && strstr(err.text, text) != NULL, "%s: status %d, '%s'; expected %d, '%s'", what, found, err.text, status, text);
}

/* Every truncation, every change of one byte to a few other values, every failing allocation: no check but open_bytes's. */
static void torture(const unsigned char *bytes, size_t n) {
    unsigned char *copy = (unsigned char *)malloc(n);
    mail_error     err;
    size_t         i, accepted = 0;
    unsigned       k;
    for (i = 0; i < n; i++) {
        accepted += open_bytes(bytes, i, &err, 0) == MAIL_OK;
    }
    CHECK_MSG(accepted == 0, "%lu of %lu truncations were accepted", (unsigned long)accepted, (unsigned long)n);
    memcpy(copy, bytes, n);
    for (i = 0; i < n; i++) {
        static const unsigned char change[] = { 0x01, 0x80, 0xff, 0x20, 0x55 };
        for (k = 0; k < sizeof change; k++) {
            copy[i] = (unsigned char)(bytes[i] ^ change[k]);
            (void)open_bytes(copy, n, &err, 0);
        }
        copy[i] = bytes[i];
    }
    for (i = 1; open_bytes(bytes, n, &err, i) != MAIL_OK; i++) {
        CHECK_MSG(err.code == MAIL_E_MEMORY, "allocation %lu failed: %s", (unsigned long)i, err.text);
    }
    CHECK(i > 1);
    free(copy);
}

/* ---- safetensors ------------------------------------------------------------------------------------------------------ */

static void safetensors(buffer *o, const char *header, size_t data) {
    size_t i;
    o->n = 0;
    put_int(o, strlen(header), 8);
    put_str(o, header);
    for (i = 0; i < data; i++) {
        put_int(o, i + 1, 1);
    }
}

#define T_A "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define T_B "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[24,28]}"

static void test_safetensors(void) {
    static buffer o;
    mail_tensors *t;
    mail_error    err;
    float         v[6];
    size_t        i;
    const float   one_and_half = 1.5f;

    safetensors(&o, "{\"__metadata__\":{\"mail.x\":\"1\",\"\\u00e4\\ud83e\\udd16\\n\":\"q\\\"\\\\\\/\\b\\f\\r\\t\"},\"z.\\u20ac\":{\"shape\":[],\"dtype\":\"F32\","
                    "\"data_offsets\":[0,4]}, \"empty\" : {\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
                    "\"b\":{\"data_offsets\":[4,7],\"dtype\":\"BOOL\",\"shape\":[3,1]}}   ", 7);
    memcpy(o.b + o.n - 7, "\0\0\xc0\x3f\0\1\2", 7);
    CHECK(mail_tensors_open_memory(&t, o.b, o.n, NULL, &err) == MAIL_OK);
    CHECK(mail_tensors_count(t) == 3);
    CHECK(strcmp(mail_tensors_at(t, 0)->name, "b") == 0 && strcmp(mail_tensors_at(t, 2)->name, "z.\xe2\x82\xac") == 0);
    CHECK(mail_tensors_at(t, 3) == NULL && mail_tensors_find(t, "c") == NULL && mail_tensors_find(t, NULL) == NULL);
    CHECK(mail_tensors_find(t, "empty")->count == 0 && mail_tensors_find(t, "empty")->n_dims == 2);
    CHECK(mail_tensor_read(mail_tensors_find(t, "empty"), NULL, 0, &err) == MAIL_OK);
    CHECK(mail_tensor_read(mail_tensors_find(t, "z.\xe2\x82\xac"), v, 1, &err) == MAIL_OK && memcmp(v, &one_and_half, 4) == 0);
    CHECK(mail_tensor_read(mail_tensors_find(t, "b"), v, 3, &err) == MAIL_OK && v[0] == 0 && v[1] == 1 && v[2] == 1);
    CHECK(mail_tensor_read(mail_tensors_find(t, "b"), v, 2, &err) == MAIL_E_ARGUMENT && strstr(err.text, "'b'") != NULL);
    CHECK(mail_tensor_read(mail_tensors_find(t, "b"), NULL, 3, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_tensor_read(NULL, v, 3, NULL) == MAIL_E_ARGUMENT);
    CHECK(strcmp(mail_tensors_metadata(t, "mail.x"), "1") == 0);
    CHECK(strcmp(mail_tensors_metadata(t, "\xc3\xa4\xf0\x9f\xa4\x96\n"), "q\"\\/\b\f\r\t") == 0);
    CHECK(mail_tensors_metadata(t, "mail.y") == NULL && mail_tensors_metadata(t, "zz") == NULL && mail_tensors_metadata(NULL, "x") == NULL);
    mail_tensors_close(t);
    torture(o.b, o.n);

    CHECK(mail_tensors_open_memory(NULL, o.b, o.n, NULL, &err) == MAIL_E_ARGUMENT);
    CHECK(mail_tensors_open_memory(&t, NULL, 5, NULL, &err) == MAIL_E_ARGUMENT);
    mail_tensors_close(NULL);
    CHECK(mail_tensors_count(NULL) == 0 && mail_tensors_at(NULL, 0) == NULL && mail_tensors_find(NULL, "a") == NULL);

    safetensors(&o, "{}", 0);
    expect("no tensors", &o, MAIL_OK, "");
    {
        static const struct {
            const char *header;
            size_t      data;
            mail_status status;
            const char *text;
        } bad[] = {
            { "{" T_A "," T_B "}", 28, MAIL_OK, "" },
            { "{" T_B "," T_A "}", 28, MAIL_OK, "" },
            { "{" T_A "," T_B "}", 27, MAIL_E_FORMAT, "bytes 24..28, but the file has 0..27" },
            { "{" T_A "," T_B "}", 29, MAIL_E_FORMAT, "unused bytes" },
            { "{" T_B "}", 28, MAIL_E_FORMAT, "unused bytes before 'b'" },
            { "{" T_A "," T_A "}", 24, MAIL_E_FORMAT, "overlap before" },
            { "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0,
              MAIL_E_FORMAT, "'a' is there twice" },
            { "{" T_A ",\"c\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[23,27]}}", 27, MAIL_E_FORMAT, "overlap" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[24,0]}}", 24, MAIL_E_FORMAT, "bytes 24..0" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,4],\"data_offsets\":[0,24]}}", 24, MAIL_E_FORMAT, "shape does not take the 24 bytes" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,0]}}", 0, MAIL_E_FORMAT, "shape does not take" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551616],\"data_offsets\":[0,0]}}", 0, MAIL_E_FORMAT, "whole numbers" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, MAIL_OK, "" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, MAIL_E_FORMAT, "at most 8" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, MAIL_E_FORMAT, "whole numbers" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, MAIL_E_FORMAT, "whole numbers" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, MAIL_E_FORMAT, "whole numbers" },
            { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, MAIL_E_FORMAT, "two data_offsets" },
            { "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, MAIL_E_UNSUPPORTED, "dtype \"F8_E4M3\"" },
            { "{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, MAIL_E_UNSUPPORTED, "dtype 4" },
            { "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, MAIL_E_FORMAT, "has no dtype" },
            { "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, MAIL_E_FORMAT, "has no shape" },
            { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, MAIL_E_FORMAT, "has no data_offsets" },
            { "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, MAIL_E_FORMAT, "\"dtype\" is unknown or there twice" },
            { "{\"a\":{\"x\":1,\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, MAIL_E_FORMAT, "\"x\" is unknown" },
            { "{\"a\":[]}", 0, MAIL_E_FORMAT, "expected an object" },
            { "{\"__metadata__\":[]}", 0, MAIL_E_FORMAT, "one __metadata__" },
            { "{\"__metadata__\":{\"a\":\"b\"},\"__metadata__\":{\"a\":\"c\"}}", 0, MAIL_E_FORMAT, "one __metadata__" },
            { "{\"__metadata__\":{\"a\":1}}", 0, MAIL_E_FORMAT, "\"a\": expected a string, found 1" },
            { "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, MAIL_E_FORMAT, "metadata key 'a' is there twice" },
            { "{\"a\n\":1}", 0, MAIL_E_FORMAT, "line 1, column 4: expected no control character" },
            { "{\"a\\u0000\":1}", 0, MAIL_E_FORMAT, "other than NUL" },
            { "{\"a\\ud800x\":1}", 0, MAIL_E_FORMAT, "surrogate" },
            { "{\"a\\udc00\":1}", 0, MAIL_E_FORMAT, "escape" },
            { "{\"a\\x\":1}", 0, MAIL_E_FORMAT, "escape" },
            { "{\"a\\u12g4\":1}", 0, MAIL_E_FORMAT, "escape" },
            { "{\"a\xff\":1}", 0, MAIL_E_FORMAT, "UTF-8" },
            { "{\"a\xc0\x80\":1}", 0, MAIL_E_FORMAT, "UTF-8" },
            { "{\"a\xed\xa0\x80\":1}", 0, MAIL_E_FORMAT, "UTF-8" },
            { "{\"a\xe2\x82", 0, MAIL_E_FORMAT, "UTF-8" },
            { "{\"a\xe2\x82y\":1}", 0, MAIL_E_FORMAT, "UTF-8" },
            { "{\"a\xf4\x90\x80\x80\":1}", 0, MAIL_E_FORMAT, "UTF-8" },
            { "{\"a", 0, MAIL_E_FORMAT, "the end of a string" },
            { "{\"a\\", 0, MAIL_E_FORMAT, "escape" },
            { "{\"a\\u12", 0, MAIL_E_FORMAT, "escape" },
            { "{\"a\"}", 0, MAIL_E_FORMAT, "':'" },
            { "{\"a\":}", 0, MAIL_E_FORMAT, "a value, found '}'" },
            { "{\"a\":", 0, MAIL_E_FORMAT, "a value, found the end" },
            { "{\"a\":1,}", 0, MAIL_E_FORMAT, "a name in quotes" },
            { "{\"a\":1 2}", 0, MAIL_E_FORMAT, "',' or '}'" },
            { "{\"a\":[1 2]}", 0, MAIL_E_FORMAT, "',' or ']'" },
            { "{\"a\":tru}", 0, MAIL_E_FORMAT, "a value" },
            { "{\"a\":NaN}", 0, MAIL_E_FORMAT, "a value" },
            { "{\"a\":-}", 0, MAIL_E_FORMAT, "a digit" },
            { "{\"a\":1.}", 0, MAIL_E_FORMAT, "a digit" },
            { "{\"a\":1e+}", 0, MAIL_E_FORMAT, "a digit" },
            { "{\"a\":01}", 0, MAIL_E_FORMAT, "',' or '}'" },
            { "{} x", 0, MAIL_E_FORMAT, "expected the end" },
            { "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}", 0, MAIL_E_FORMAT, "nested" },
        };
        for (i = 0; i < sizeof bad / sizeof *bad; i++) {
            safetensors(&o, bad[i].header, bad[i].data);
            expect(bad[i].header, &o, bad[i].status, bad[i].text);
        }
    }
    safetensors(&o, "{}", 0);
    o.b[0] = 3;
    expect("header longer than the file", &o, MAIL_E_FORMAT, "but the file has 2");
    memset(o.b, 0xff, 8);
    expect("header of 2^64 - 1", &o, MAIL_E_FORMAT, "18446744073709551615");
    o.n = 0;
    expect("nothing", &o, MAIL_E_FORMAT, "neither");
    put_str(&o, "hello, world");
    expect("text", &o, MAIL_E_FORMAT, "0x68 0x65");

    /* many tensors: sorting and memory, with names that share a long beginning */
    o.n = 0;
    put_int(&o, 0, 8);
    put_str(&o, "{");
    for (i = 0; i < 800; i++) {
        char text[160];
        snprintf(text, sizeof text, "%s\"%060lu\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%lu,%lu]}", i ? "," : "", (unsigned long)(i * 7919 % 800),
                 (unsigned long)(i * 13 % 800), (unsigned long)(i * 13 % 800 + 1));
        put_str(&o, text);
    }
    put_str(&o, "}");
    i = o.n - 8;
    o.b[0] = (unsigned char)(i & 255);
    o.b[1] = (unsigned char)(i >> 8 & 255);
    o.b[2] = (unsigned char)(i >> 16);
    for (i = 0; i < 800; i++) {
        put_int(&o, i, 1);
    }
    expect("800 tensors", &o, MAIL_OK, "");
}

/* ---- numbers ---------------------------------------------------------------------------------------------------------- */

static void test_dtypes(void) {
    static const unsigned char bytes[8] = { 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    mail_tensor x;
    float       v = 0;
    unsigned    h, wrong = 0;
    CHECK(strcmp(mail_dtype_name(MAIL_BF16), "BF16") == 0 && strcmp(mail_dtype_name((mail_dtype)99), "unknown") == 0);
    CHECK(mail_dtype_size(MAIL_F64) == 8 && mail_dtype_size((mail_dtype)99) == 0);
    for (h = 0; h < 65536; h++) {  /* every half: sign * (1 + m / 1024) * 2^(e - 15), or m * 2^-24 */
        unsigned e = h >> 10 & 31, m = h & 1023;
        double   expected = e == 0 ? ldexp((double)m, -24) : ldexp(1024 + (double)m, (int)e - 25);
        float    f = mailp_f16(h);
        uint32_t bits;
        memcpy(&bits, &f, 4);
        if (e == 31) {  /* infinity, or NaN with m as payload; x87 (i686) makes a signalling one quiet on its way through a register */
            wrong += (bits & 0x7f800000u) != 0x7f800000u || bits >> 31 != h >> 15 ||
                     ((bits & 0x7fffffu) >> 13 != m && !(m != 0 && (bits & 0x7fffffu) >> 13 == (m | 0x200u)));
        } else {
            wrong += (double)f != (h >> 15 ? -expected : expected) || bits >> 31 != h >> 15;
        }
        f = mailp_f32_bits((uint32_t)h << 16);  /* and every bf16 comes back */
        wrong += mailp_bf16(f) != h && !((h & 0x7fff) > 0x7f80 && (mailp_bf16(f) == (h | 0x40u)));
    }
    CHECK_MSG(wrong == 0, "%u of 65536 halves", wrong);
    CHECK(mailp_bf16(mailp_f32_bits(0x3f808000u)) == 0x3f80u && mailp_bf16(mailp_f32_bits(0x3f818000u)) == 0x3f82u);  /* ties to even */
    CHECK(mailp_bf16(mailp_f32_bits(0x3f808001u)) == 0x3f81u && mailp_bf16(mailp_f32_bits(0x7f7fffffu)) == 0x7f80u);
    CHECK(mailp_bf16(mailp_f32_bits(0x7f800001u)) == 0x7fc0u);

    memset(&x, 0, sizeof x);
    x.name  = "x";
    x.count = 1;
    x.data  = bytes;
#define READS(type, value) (x.dtype = (type), mail_tensor_read(&x, &v, 1, NULL) == MAIL_OK && v == (float)(value))
    CHECK(READS(MAIL_I8, -2) && READS(MAIL_I16, -2) && READS(MAIL_I32, -2) && READS(MAIL_I64, -2));
    CHECK(READS(MAIL_U8, 254) && READS(MAIL_BOOL, 1));
    x.data = (const unsigned char *)"\0\0\0\0\0\0\xf8\x3f";
    CHECK(READS(MAIL_F64, 1.5));
    x.data = (const unsigned char *)"\1\0\0\0";
    x.dtype = MAIL_F32;
    CHECK(READS(MAIL_F32, ldexp(1, -149)) && v > 0);  /* the smallest denormal */
}

/* ---- zip and pickle ---------------------------------------------------------------------------------------------------- */

typedef struct {
    buffer   file, dir;
    unsigned n, method, flags;
    int      zip64;
} archive;

static void zip_begin(archive *z) {
    z->file.n = z->dir.n = 0;
    z->n = z->method = z->flags = 0;
    z->zip64 = 0;
}

static void zip_add(archive *z, const char *name, const void *data, size_t n) {
    size_t at = z->file.n;
    put_str(&z->file, "PK\3\4");
    put_int(&z->file, 20, 2);
    put_int(&z->file, z->flags, 2);
    put_int(&z->file, z->method, 2);
    put_int(&z->file, 0, 4 + 4);
    put_int(&z->file, z->flags & 8 ? 0 : n, 4);
    put_int(&z->file, z->flags & 8 ? 0 : n, 4);
    put_int(&z->file, strlen(name), 2);
    put_int(&z->file, 7, 2);
    put_str(&z->file, name);
    put(&z->file, "FB\3\0ZZZ", 7);
    put(&z->file, data, n);
    if (z->flags & 8) {
        put_str(&z->file, "PK\7\10");
        put_int(&z->file, 0, 4);
        put_int(&z->file, n, 4);
        put_int(&z->file, n, 4);
    }
    put_str(&z->dir, "PK\1\2");
    put_int(&z->dir, 20, 2);
    put_int(&z->dir, 20, 2);
    put_int(&z->dir, z->flags, 2);
    put_int(&z->dir, z->method, 2);
    put_int(&z->dir, 0, 4 + 4);
    put_int(&z->dir, z->zip64 ? 0xffffffffu : n, 4);
    put_int(&z->dir, z->zip64 ? 0xffffffffu : n, 4);
    put_int(&z->dir, strlen(name), 2);
    put_int(&z->dir, z->zip64 ? 32 : 0, 2);
    put_int(&z->dir, 0, 2 + 2 + 2 + 4);
    put_int(&z->dir, z->zip64 ? 0xffffffffu : at, 4);
    put_str(&z->dir, name);
    if (z->zip64) {
        put(&z->dir, "\x55\x54\0\0", 4);  /* another field before it */
        put_int(&z->dir, 1, 2);
        put_int(&z->dir, 24, 2);
        put_int(&z->dir, n, 8);
        put_int(&z->dir, n, 8);
        put_int(&z->dir, at, 8);
    }
    z->n++;
}

static void zip_end(archive *z) {
    size_t at = z->file.n, end;
    put(&z->file, z->dir.b, z->dir.n);
    end = z->file.n;
    if (z->zip64) {
        put_str(&z->file, "PK\6\6");
        put_int(&z->file, 44, 8);
        put_int(&z->file, 45, 2 + 2 + 4 + 4);
        put_int(&z->file, z->n, 8);
        put_int(&z->file, z->n, 8);
        put_int(&z->file, z->dir.n, 8);
        put_int(&z->file, at, 8);
        put_str(&z->file, "PK\6\7");
        put_int(&z->file, 0, 4);
        put_int(&z->file, end, 8);
        put_int(&z->file, 1, 4);
    }
    put_str(&z->file, "PK\5\6");
    put_int(&z->file, 0, 4);
    put_int(&z->file, z->zip64 ? 0xffff : z->n, 2);
    put_int(&z->file, z->zip64 ? 0xffff : z->n, 2);
    put_int(&z->file, z->zip64 ? 0xffffffffu : z->dir.n, 4);
    put_int(&z->file, z->zip64 ? 0xffffffffu : at, 4);
    put_int(&z->file, 0, 2);
}

static const float storage_values[4] = { 1, 2, 3, 4 };

/* An archive with the pickle p and storages "0" (4 floats) and "1" (no bytes). */
static void archive_of(archive *z, const buffer *p) {
    unsigned char values[16];
    size_t        i;
    for (i = 0; i < 4; i++) {
        uint32_t bits;
        memcpy(&bits, &storage_values[i], 4);
        values[4 * i]     = (unsigned char)(bits & 255);
        values[4 * i + 1] = (unsigned char)(bits >> 8 & 255);
        values[4 * i + 2] = (unsigned char)(bits >> 16 & 255);
        values[4 * i + 3] = (unsigned char)(bits >> 24);
    }
    zip_add(z, "m/data.pkl", p->b, p->n);
    zip_add(z, "m/data/0", values, 16);
    zip_add(z, "m/data/1", "", 0);
    zip_add(z, "m/version", "3\n", 2);
    zip_end(z);
}

static void expect_pickle(const char *what, const buffer *p, mail_status status, const char *text) {
    static archive z;
    zip_begin(&z);
    archive_of(&z, p);
    expect(what, &z.file, status, text);
}

static void put_text(buffer *p, const char *text) {  /* BINUNICODE */
    put_str(p, "X");
    put_int(p, strlen(text), 4);
    put_str(p, text);
}

static void put_storage(buffer *p, const char *type, const char *key, unsigned long long numel) {
    put_str(p, "(");
    put_text(p, "storage");
    put_str(p, "ctorch\n");
    put_str(p, type);
    put_str(p, "\n");
    put_text(p, key);
    put_text(p, "cuda:0");
    put_str(p, "\x8a\x08");
    put_int(p, numel, 8);
    put_str(p, "tQ");
}

/* name, and a tensor of two dimensions; numbers as LONG1 */
static void put_tensor(buffer *p, const char *name, unsigned long long numel, unsigned long long offset, unsigned long long s0, unsigned long long s1,
                       unsigned long long t0, unsigned long long t1) {
    unsigned long long number[5];
    int                i;
    put_text(p, name);
    put_str(p, "ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(p, "FloatStorage", "0", numel);
    number[0] = offset;
    number[1] = s0;
    number[2] = s1;
    number[3] = t0;
    number[4] = t1;
    for (i = 0; i < 5; i++) {
        put_str(p, "\x8a\x08");
        put_int(p, number[i], 8);
        put_str(p, i == 2 || i == 4 ? "\x86" : "");
    }
    put_str(p, "\x89" "ccollections\nOrderedDict\n)RtR");
}

#define BEGIN "\x80\x02" "ccollections\nOrderedDict\n)Rq"
#define PUT(p, text) put(p, text, sizeof text - 1)

static void begin(buffer *p) {
    p->n = 0;
    PUT(p, BEGIN "\0(");
}

static void test_zip(void) {
    static archive z;
    static buffer  p, o;
    mail_tensors  *t;
    mail_error     err;
    float          v[4];
    size_t         i, dir;
    begin(&p);
    put_tensor(&p, "w", 4, 0, 2, 2, 1, 2);
    PUT(&p, "u}X\x09\0\0\0_metadatah\0sb.");

    zip_begin(&z);
    archive_of(&z, &p);
    CHECK_MSG(mail_tensors_open_memory(&t, z.file.b, z.file.n, NULL, &err) == MAIL_OK, "%s", err.text);
    CHECK(mail_tensors_count(t) == 1 && mail_tensor_read(mail_tensors_at(t, 0), v, 4, &err) == MAIL_OK);
    CHECK(v[0] == 1 && v[1] == 3 && v[2] == 2 && v[3] == 4);
    mail_tensors_close(t);
    torture(z.file.b, z.file.n);

    zip_begin(&z);
    z.zip64 = 1;
    z.flags = 8;
    archive_of(&z, &p);
    expect("zip64 and data descriptors", &z.file, MAIL_OK, "");
    torture(z.file.b, z.file.n);
    o = z.file;
    memset(o.b + o.n - 22 - 12, 0xff, 8);
    expect("zip64 end elsewhere", &o, MAIL_E_FORMAT, "zip64 end");

    zip_begin(&z);
    archive_of(&z, &p);
    put_int(&z.file, 0, 8);
    expect("bytes after the end", &z.file, MAIL_E_FORMAT, "no end of central directory");
    z.file.b[z.file.n - 10] = 8;
    expect("a comment", &z.file, MAIL_OK, "");
    put(&z.file, o.b, o.n);
    z.file.n = z.file.n - o.n;

    zip_begin(&z);
    z.method = 8;
    archive_of(&z, &p);
    expect("deflated", &z.file, MAIL_E_UNSUPPORTED, "'m/data.pkl' is compressed or encrypted");
    zip_begin(&z);
    z.flags = 1;
    archive_of(&z, &p);
    expect("encrypted", &z.file, MAIL_E_UNSUPPORTED, "encrypted");

    zip_begin(&z);
    zip_add(&z, "m/data/0", storage_values, 16);
    zip_end(&z);
    expect("no pickle", &z.file, MAIL_E_FORMAT, "no entry ends in /data.pkl");
    zip_begin(&z);
    zip_add(&z, "a/data.pkl", p.b, p.n);
    zip_add(&z, "b/data.pkl", p.b, p.n);
    zip_end(&z);
    expect("two pickles", &z.file, MAIL_E_FORMAT, "two entries end in /data.pkl");
    zip_begin(&z);
    zip_add(&z, "m/data.pkl", p.b, p.n);
    zip_add(&z, "m/data.pkl", p.b, p.n);
    zip_end(&z);
    expect("one name twice", &z.file, MAIL_E_FORMAT, "'m/data.pkl' is there twice");
    zip_begin(&z);
    zip_add(&z, "m/data.pkl", p.b, p.n);
    zip_end(&z);
    expect("no storage", &z.file, MAIL_E_FORMAT, "no entry data/0");
    zip_begin(&z);
    zip_add(&z, "m/byteorder", "little", 6);
    archive_of(&z, &p);
    expect("little-endian", &z.file, MAIL_OK, "");
    zip_begin(&z);
    zip_add(&z, "m/byteorder", "big", 3);
    archive_of(&z, &p);
    expect("big-endian", &z.file, MAIL_E_UNSUPPORTED, "byteorder is 'big'");

    /* directories that lie */
    zip_begin(&z);
    archive_of(&z, &p);
    for (dir = 0; memcmp(z.file.b + dir, "PK\1\2", 4) != 0; dir++) {
    }
    o = z.file;
    o.b[dir + 24]++;
    expect("two sizes", &o, MAIL_E_FORMAT, "contradictory sizes");
    o = z.file;
    o.b[dir + 42] = 1;
    expect("offset", &o, MAIL_E_FORMAT, "its local header is not at byte 1");
    o = z.file;
    o.b[dir + 20] = o.b[dir + 24] = 0;
    o.b[dir + 21] = o.b[dir + 25] = 0x80;
    expect("size", &o, MAIL_E_FORMAT, "run into the directory");
    o = z.file;
    o.b[dir + 32] = 0xff;
    o.b[dir + 33] = 0xff;
    expect("comment", &o, MAIL_E_FORMAT, "is cut off");
    o = z.file;
    o.b[dir] = 'Q';
    expect("signature", &o, MAIL_E_FORMAT, "expected a directory entry");
    o = z.file;
    o.b[o.n - 22 + 10] = 3;
    expect("fewer entries", &o, MAIL_E_FORMAT, "bytes more than its 3 entries");
    o.b[o.n - 22 + 10] = 200;
    expect("more entries", &o, MAIL_E_FORMAT, "central directory of 200 entries");
    o = z.file;
    o.b[o.n - 22 + 18] = 0xff;
    expect("directory elsewhere", &o, MAIL_E_FORMAT, "does not lie before");
    o = z.file;  /* let data.pkl reach into data/0 */
    for (i = 20; i <= 24; i += 4) {
        o.b[dir + i]++;
    }
    expect("overlap", &o, MAIL_E_FORMAT, "overlap");
    zip_begin(&z);
    z.zip64 = 1;
    zip_add(&z, "m/data.pkl", p.b, p.n);
    z.dir.b[46 + 10 + 4 + 2] = 16;  /* the field is said to be too short for three numbers */
    zip_end(&z);
    expect("zip64 field", &z.file, MAIL_E_FORMAT, "contradictory sizes");
    z.file.b[z.file.n - 22 - 20 - 56 - z.dir.n + 46 + 10 + 4 + 2] = 99;
    expect("zip64 field over the end", &z.file, MAIL_E_FORMAT, "contradictory sizes");
    {   /* a folder with a name longer than torch gives one: its entries are not found */
        char long_name[600];
        memset(long_name, 'm', sizeof long_name);
        memcpy(long_name + 520, "/data.pkl", 10);
        zip_begin(&z);
        zip_add(&z, long_name, p.b, p.n);
        zip_end(&z);
        expect("long folder", &z.file, MAIL_E_FORMAT, "data/0");
    }
    o.n = 0;
    put(&o, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
    expect("old torch", &o, MAIL_E_UNSUPPORTED, "before 1.6");
    o.n = 0;
    put(&o, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 97\n", 67);
    expect("Git LFS", &o, MAIL_E_FORMAT, "git lfs pull");
}

static void test_pickle(void) {
    static buffer p;
    size_t        i;
    static const struct {
        const char *code;
        size_t      n;
        mail_status status;
        const char *text;
    } bad[] = {
#define CASE(code, status, text) { code, sizeof code - 1, status, text }
        CASE("", MAIL_E_FORMAT, "without STOP"),
        CASE("\x80\x02", MAIL_E_FORMAT, "without STOP"),
        CASE("\x80\x01N.", MAIL_E_UNSUPPORTED, "protocol 1"),
        CASE("\x80\x06N.", MAIL_E_UNSUPPORTED, "protocol 6"),
        CASE("\x80\x02\x80\x02N.", MAIL_E_UNSUPPORTED, "protocol 2"),
        CASE("\x80", MAIL_E_FORMAT, "runs over the end"),
        CASE("\x80\x02.", MAIL_E_FORMAT, "more values"),
        CASE("\x80\x02N.", MAIL_E_UNSUPPORTED, "does not hold a dictionary"),
        CASE("\x80\x02}}.", MAIL_E_UNSUPPORTED, "does not hold a dictionary"),
        CASE("\x80\x02}.", MAIL_E_FORMAT, "no tensor"),
        CASE("\x80\x02(d.", MAIL_E_FORMAT, "no tensor"),
        CASE("\x80\x02(K\1d.", MAIL_E_FORMAT, "pairs for a dictionary"),
        CASE("\x80\x02(K\1K\2d.", MAIL_E_FORMAT, "no tensor"),
        CASE("\x80\x02" "cos\nsystem\n(X\4\0\0\0true" "tR.", MAIL_E_UNSUPPORTED, "'os.system'"),
        CASE("\x80\x04\x8c\2os\x8c\6system\x93" "\x8c\4true\x85R.", MAIL_E_UNSUPPORTED, "'os.system'"),
        CASE("\x80\x04\x8c\2osK\1\x93.", MAIL_E_FORMAT, "two strings"),
        CASE("\x80\x02" "ctorch\nFloatStorage", MAIL_E_FORMAT, "runs over the end"),
        CASE("\x80\x02" "ctorch\nComplexFloatStorage\n.", MAIL_E_UNSUPPORTED, "torch.ComplexFloatStorage"),
        CASE("\x80\x02" "c\n\n.", MAIL_E_UNSUPPORTED, "'.'"),
        CASE("\x80\x02" "ccollections\nOrderedDict\n(K\1tR.", MAIL_E_UNSUPPORTED, "collections.OrderedDict is called with arguments"),
        CASE("\x80\x02" "ctorch._utils\n_rebuild_tensor_v2\n)R.", MAIL_E_UNSUPPORTED, "_rebuild_tensor_v2 is called with arguments"),
        CASE("\x80\x02" "ctorch._utils\n_rebuild_parameter\n}\x85R.", MAIL_E_UNSUPPORTED, "_rebuild_parameter is called with arguments"),
        CASE("\x80\x02" "ctorch\nFloatStorage\n)R.", MAIL_E_UNSUPPORTED, "torch.FloatStorage is called with arguments"),
        CASE("\x80\x02}}R.", MAIL_E_FORMAT, "a global and a tuple"),
        CASE("\x80\x02" "ccollections\nOrderedDict\nM\xff\xffR.", MAIL_E_FORMAT, "a global and a tuple"),
        CASE("\x80\x02\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xffQ.", MAIL_E_FORMAT, "persistent id"),
        CASE("\x80\x02)Q.", MAIL_E_FORMAT, "persistent id"),
        CASE("\x80\x02N}b.", MAIL_E_FORMAT, "to set attributes of"),
        CASE("\x80\x02Nb.", MAIL_E_FORMAT, "more values"),
        CASE("\x80\x02h\0.", MAIL_E_FORMAT, "memo place that is filled"),
        CASE("\x80\x02j\0\0\0\1.", MAIL_E_FORMAT, "memo place that is filled"),
        CASE("\x80\x02Nq\1.", MAIL_E_FORMAT, "ascending order"),
        CASE("\x80\x02Nr\xff\xff\xff\xff.", MAIL_E_FORMAT, "ascending order"),
        CASE("\x80\x02q\0.", MAIL_E_FORMAT, "more values"),
        CASE("\x80\x02t.", MAIL_E_FORMAT, "a mark"),
        CASE("\x80\x02u.", MAIL_E_FORMAT, "a mark"),
        CASE("\x80\x02(u.", MAIL_E_FORMAT, "dictionary to set items of"),
        CASE("\x80\x02N(NNu.", MAIL_E_FORMAT, "dictionary to set items of"),
        CASE("\x80\x02}(NNNu.", MAIL_E_FORMAT, "dictionary to set items of"),
        CASE("\x80\x02NNNs.", MAIL_E_FORMAT, "dictionary to set items of"),
        CASE("\x80\x02NNa.", MAIL_E_FORMAT, "a list"),
        CASE("\x80\x02(Ne.", MAIL_E_FORMAT, "a list"),
        CASE("\x80\x02N(Ne.", MAIL_E_FORMAT, "a list"),
        CASE("\x80\x02}0.", MAIL_E_FORMAT, "more values"),
        CASE("\x80\x02" "X\xff\xff\xff\xffx", MAIL_E_FORMAT, "runs over the end"),
        CASE("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffx", MAIL_E_FORMAT, "runs over the end"),
        CASE("\x80\x04\x8d\1", MAIL_E_FORMAT, "runs over the end"),
        CASE("\x80\x04\x95\1", MAIL_E_FORMAT, "runs over the end"),
        CASE("\x80\x02I1\n.", MAIL_E_UNSUPPORTED, "protocol 0"),
        CASE("\x80\x02(i__main__\nA\n.", MAIL_E_UNSUPPORTED, "(INST)"),
        CASE("\x80\x02(o.", MAIL_E_UNSUPPORTED, "(OBJ)"),
        CASE("\x80\x02}\x81.", MAIL_E_UNSUPPORTED, "(NEWOBJ)"),
        CASE("\x80\x04}\x92.", MAIL_E_UNSUPPORTED, "(NEWOBJ_EX)"),
        CASE("\x80\x02\x82\1.", MAIL_E_UNSUPPORTED, "(EXT)"),
        CASE("\x80\x02P1\n.", MAIL_E_UNSUPPORTED, "(PERSID)"),
        CASE("\x80\x03" "C\1a.", MAIL_E_UNSUPPORTED, "(BINBYTES)"),
        CASE("\x80\x05\x96.", MAIL_E_UNSUPPORTED, "(BYTEARRAY8)"),
        CASE("\x80\x04\x8f.", MAIL_E_UNSUPPORTED, "(SET)"),
        CASE("\x80\x02\xfe.", MAIL_E_UNSUPPORTED, "opcode 0xfe (unknown)"),
        CASE("\x80\x02\0.", MAIL_E_UNSUPPORTED, "opcode 0x00"),
    };
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        char what[32];
        p.n = 0;
        put(&p, bad[i].code, bad[i].n);
        snprintf(what, sizeof what, "pickle %lu", (unsigned long)i);
        expect_pickle(what, &p, bad[i].status, bad[i].text);
    }

    /* values that do not matter: every other opcode, before a good tensor */
    begin(&p);
    put_text(&p, "note");
    PUT(&p, "(NNtq\1" "0\x88" "0\x89" "0G\0\0\0\0\0\0\0\0" "0J\1\0\0\0" "0M\1\0" "0NNN\x87" "0NN\x86" "0N\x85" "0]Na(NNe" "0(NNl" "0U\1a" "0T\1\0\0\0b" "0(NN1"
            "\x95\0\0\0\0\0\0\0\0\x8c\1a\x94" "0\x8d\1\0\0\0\0\0\0\0b" "0j\1\0\0\0r\3\0\0\0" "0\x8a\x0c" "123456789012" "0K\1" "0(K\1Nd" "0}K\1Ns" "0N");
    put_tensor(&p, "w", 4, 0, 2, 2, 2, 1);
    PUT(&p, "u.");
    expect_pickle("all opcodes", &p, MAIL_OK, "");
    begin(&p);
    put_text(&p, "p");
    PUT(&p, "ctorch._utils\n_rebuild_parameter\n(");
    put_tensor(&p, "", 4, 0, 2, 2, 2, 1);
    PUT(&p, "tRu.");
    expect_pickle("parameter with a wrong first argument", &p, MAIL_E_UNSUPPORTED, "_rebuild_parameter");

    /* views */
    {
        static const struct {
            unsigned long long numel, offset, s0, s1, t0, t1;
            mail_status        status;
            const char        *text;
        } view[] = {
            { 4, 0, 2, 2, 2, 1, MAIL_OK, "" },
            { 4, 0, 2, 2, 1, 2, MAIL_OK, "" },
            { 4, 3, 1, 1, 9, 9, MAIL_OK, "" },
            { 4, 1, 3, 1, 1, 7, MAIL_OK, "" },
            { 4, 4, 0, 2, 2, 1, MAIL_OK, "" },
            { 4, 0, 1, 1, 0x7fffffffffffffffull, 0x7fffffffffffffffull, MAIL_OK, "" },
            { 4, 5, 0, 2, 2, 1, MAIL_E_FORMAT, "beyond the 4 elements" },
            { 4, 4, 1, 1, 1, 1, MAIL_E_FORMAT, "beyond" },
            { 4, 1, 2, 2, 2, 1, MAIL_E_FORMAT, "beyond" },
            { 4, 0, 2, 2, 3, 1, MAIL_E_FORMAT, "beyond" },
            { 4, 0, 3, 2, 2, 1, MAIL_E_FORMAT, "beyond" },
            { 4, 0, 2, 1, 0x8000000000000000ull, 1, MAIL_E_FORMAT, "not a whole number" },
            { 4, 0, 2, 2, 0x7fffffffffffffffull, 0x7fffffffffffffffull, MAIL_E_FORMAT, "beyond" },
            { 4, 0, 3, 3, 0x7fffffffffffffffull, 2, MAIL_E_FORMAT, "beyond" },
            { 4, 0xffffffffffffffffull, 2, 2, 2, 1, MAIL_E_FORMAT, "beyond" },
            { 4, 0, 0xffffffffffffffffull, 1, 0, 0, MAIL_E_FORMAT, "not a whole number" },
            { 4, 0, 0x7fffffffffffffffull, 16, 0, 0, MAIL_E_FORMAT, "larger than any memory" },
            { 4, 0, 5, 1, 0, 0, MAIL_E_UNSUPPORTED, "expanded view" },
            { 4, 0, 0x0fffffffffffffffull, 1, 0, 0, MAIL_E_UNSUPPORTED, "expanded view" },
            { 5, 0, 2, 2, 2, 1, MAIL_E_FORMAT, "do not take the 16 bytes" },
            { 0x4000000000000001ull, 0, 2, 2, 2, 1, MAIL_E_FORMAT, "do not take" },
            { 0xffffffffffffffffull, 0, 2, 2, 2, 1, MAIL_E_FORMAT, "do not take" },
        };
        for (i = 0; i < sizeof view / sizeof *view; i++) {
            char what[32];
            begin(&p);
            put_tensor(&p, "w", view[i].numel, view[i].offset, view[i].s0, view[i].s1, view[i].t0, view[i].t1);
            PUT(&p, "u.");
            snprintf(what, sizeof what, "view %lu", (unsigned long)i);
            expect_pickle(what, &p, view[i].status, view[i].text);
        }
    }
    begin(&p);
    put_tensor(&p, "w", 4, 0, 2, 2, 2, 1);
    put_tensor(&p, "w", 4, 0, 2, 2, 1, 2);
    PUT(&p, "u.");
    expect_pickle("a name twice", &p, MAIL_E_FORMAT, "'w' is there twice");
    p.n = 0;  /* the same, the name once in the pickle: it must not grow the table */
    PUT(&p, BEGIN "\0X\x90\1\0\0");
    for (i = 0; i < 400; i++) {
        put_int(&p, 'n', 1);
    }
    PUT(&p, "q\1" "0");
    put_tensor(&p, "", 4, 0, 2, 2, 2, 1);
    PUT(&p, "q\2" "00(");
    for (i = 0; i < 500; i++) {
        PUT(&p, "h\1h\2");
    }
    PUT(&p, "u.");
    expect_pickle("a long name often", &p, MAIL_E_FORMAT, "a name is there twice");
    p.n = 0;  /* so often that 32 bits cannot count its bytes: 65536 times 65535 and a NUL */
    PUT(&p, BEGIN "\0X\xff\xff\0\0");
    for (i = 0; i < 65535; i++) {
        put_int(&p, 'n', 1);
    }
    PUT(&p, "q\1" "0");
    put_tensor(&p, "", 4, 0, 2, 2, 2, 1);
    PUT(&p, "q\2" "00(");
    for (i = 0; i < 65536; i++) {
        PUT(&p, "h\1h\2");
    }
    PUT(&p, "u.");
    expect_pickle("a long name 65536 times", &p, MAIL_E_FORMAT, "a name is there twice");
    begin(&p);
    put_tensor(&p, "w", 4, 0, 2, 2, 2, 1);
    p.b[p.n++] = 'K';
    p.b[p.n++] = 7;
    PUT(&p, "ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(&p, "FloatStorage", "1", 0);
    PUT(&p, "K\0K\0\x85K\1\x85\x89}tRu.");
    expect_pickle("a number as a name", &p, MAIL_E_FORMAT, "not a plain string");
    begin(&p);
    put_text(&p, "e");
    PUT(&p, "ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(&p, "FloatStorage", "1", 0);
    PUT(&p, "K\0K\0\x85K\1\x85\x89}tRu.");
    expect_pickle("an empty tensor", &p, MAIL_OK, "");
    begin(&p);
    put_text(&p, "e");
    PUT(&p, "ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(&p, "FloatStorage", "1", 0);
    PUT(&p, "K\0K\0\x85)\x89}tRu.");
    expect_pickle("fewer strides", &p, MAIL_E_FORMAT, "1 dimensions and 0 strides");
    begin(&p);
    put_text(&p, "e");
    PUT(&p, "ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(&p, "FloatStorage", "1", 0);
    PUT(&p, "K\0N\x85N\x85\x89}tRu.");
    expect_pickle("None as a size", &p, MAIL_E_FORMAT, "not a whole number");
    begin(&p);
    put_text(&p, "e");
    PUT(&p, "ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(&p, "FloatStorage", "1", 0);
    PUT(&p, "K\1K\0\x85K\1\x85\x89}tRu.");
    expect_pickle("an empty tensor behind its storage", &p, MAIL_E_FORMAT, "beyond the 0 elements");
    for (i = 0; i < 3; i++) {  /* state_dict is what is meant, whatever stands beside it; another member is named */
        static archive z;
        mail_tensors  *t;
        mail_error     err;
        p.n = 0;
        PUT(&p, "\x80\x02}");
        put_text(&p, i < 2 ? "state_dict" : "model");
        PUT(&p, "}(");
        put_tensor(&p, "inner", 4, 0, 2, 2, 2, 1);
        PUT(&p, "us");
        if (i == 1) {
            PUT(&p, "(");
            put_tensor(&p, "loss", 4, 0, 2, 2, 2, 1);
            PUT(&p, "u");
        }
        PUT(&p, ".");
        if (i == 2) {
            expect_pickle("another member", &p, MAIL_E_FORMAT, "but in its 'model'; save that alone");
            break;
        }
        zip_begin(&z);
        archive_of(&z, &p);
        CHECK_MSG(mail_tensors_open_memory(&t, z.file.b, z.file.n, NULL, &err) == MAIL_OK, "%s", err.text);
        CHECK(mail_tensors_count(t) == 1 && mail_tensors_find(t, "inner") != NULL);
        mail_tensors_close(t);
    }
    for (i = 16; i <= 17; i++) {  /* tensors that share 64 KB */
        static archive       z;
        static unsigned char zeros[65536];
        size_t               k;
        begin(&p);
        for (k = 0; k < i; k++) {
            char name[8];
            snprintf(name, sizeof name, "w%lu", (unsigned long)k);
            put_tensor(&p, name, 16384, 0, 128, 128, 128, 1);
        }
        PUT(&p, "u.");
        zip_begin(&z);
        zip_add(&z, "m/data.pkl", p.b, p.n);
        zip_add(&z, "m/data/0", zeros, sizeof zeros);
        zip_end(&z);
        expect("shared storage", &z.file, i == 16 ? MAIL_OK : MAIL_E_UNSUPPORTED, i == 16 ? "" : "share their storage: 1114112 bytes of them");
    }
    begin(&p);  /* torch's negative bit: the values would have to change sign */
    put_text(&p, "e");
    PUT(&p, "ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(&p, "FloatStorage", "1", 0);
    PUT(&p, "K\0K\0\x85K\1\x85\x89}}");
    put_text(&p, "neg");
    PUT(&p, "\x88stRu.");
    expect_pickle("metadata of a tensor", &p, MAIL_E_UNSUPPORTED, "_rebuild_tensor_v2 is called with arguments");
    begin(&p);  /* mamba_ssm's parameters have attributes */
    put_text(&p, "e");
    PUT(&p, "ctorch._utils\n_rebuild_parameter_with_state\n(ctorch._utils\n_rebuild_tensor_v2\n(");
    put_storage(&p, "FloatStorage", "1", 0);
    PUT(&p, "K\0K\0\x85K\1\x85\x89}tR\x88}}");
    put_text(&p, "_no_weight_decay");
    PUT(&p, "\x88stRu.");
    expect_pickle("a parameter with attributes", &p, MAIL_OK, "");
    p.n = 0;
    PUT(&p, "\x80\x02");
    for (i = 0; i < 60000; i++) {
        PUT(&p, "(");
    }
    PUT(&p, ".");
    expect_pickle("a high stack", &p, MAIL_E_UNSUPPORTED, "does not hold a dictionary");
}

/* A camera's tensor under both of its names, each time as a view of its own: equal values are one tensor, wherever they lie. */
static void test_two_names(void) {
    static archive z;
    static buffer  p;
    static const struct {
        unsigned long long offset[2], shape[2], stride[2];
        int                same;
    } pair[] = { { { 0, 0 }, { 4, 4 }, { 1, 1 }, 1 },
                 { { 3, 3 }, { 4, 4 }, { 0, 0 }, 1 },   /* read as dense, either would run over its storage */
                 { { 2, 2 }, { 1, 1 }, { 1, 7 }, 1 },
                 { { 3, 2 }, { 4, 4 }, { 0, 0 }, 0 },
                 { { 2, 1 }, { 2, 2 }, { 0, 0 }, 0 },
                 { { 0, 0 }, { 2, 2 }, { 2, 1 }, 0 },
                 { { 2, 0 }, { 1, 1 }, { 1, 7 }, 0 },
                 { { 0, 0 }, { 4, 3 }, { 1, 1 }, 0 } };
    size_t i;
    for (i = 0; i < sizeof pair / sizeof *pair; i++) {
        mail_tensors  *t = NULL;
        mail_error     err;
        mailp_loader   l;
        unsigned char *file, used[2] = { 0, 0 };
        begin(&p);
        put_tensor(&p, "c.backbone.nets.0.weight", 4, pair[i].offset[0], pair[i].shape[0], 1, pair[i].stride[0], 1);
        put_tensor(&p, "c.nets.0.nets.0.weight", 4, pair[i].offset[1], pair[i].shape[1], 1, pair[i].stride[1], 1);
        PUT(&p, "u.");
        zip_begin(&z);
        archive_of(&z, &p);
        file = (unsigned char *)malloc(z.file.n);
        memcpy(file, z.file.b, z.file.n);
        CHECK_MSG(mail_tensors_open_memory(&t, file, z.file.n, NULL, &err) == MAIL_OK, "%s", err.text);
        memset(&l, 0, sizeof l);
        l.tensors = t;
        l.used    = used;
        l.err     = &err;
        CHECK(mailp_load(&l, "c.backbone.nets.0.weight", 2, (size_t)pair[i].shape[0], 1, 0, 0) == NULL && used[0] && used[1]);
        CHECK_MSG((l.status == MAIL_OK) == pair[i].same && (pair[i].same || strstr(err.text, "two names") != NULL), "pair %lu", (unsigned long)i);
        mail_tensors_close(t);
        free(file);
    }
}

/* ---- files of torch ---------------------------------------------------------------------------------------------------- */

static mail_status open_file(mail_tensors **t, const char *name, mail_error *err) {
    char path[512];
    snprintf(path, sizeof path, "%.300s/%.200s", data_folder, name);
    return mail_tensors_open(t, path, NULL, err);
}

/* Element i is (first + i * step) in the tensor's row-major order. */
static void check_ramp(const mail_tensors *t, const char *name, mail_dtype dtype, size_t count, double first, double step) {
    const mail_tensor *x = mail_tensors_find(t, name);
    float              v[64];
    size_t             i, wrong = 0;
    CHECK_MSG(x != NULL && x->dtype == dtype && x->count == count, "%s", name);
    if (x != NULL && x->count == count && mail_tensor_read(x, v, count, NULL) == MAIL_OK) {
        for (i = 0; i < count; i++) {
            wrong += (double)v[i] != first + (double)i * step;
        }
        CHECK_MSG(wrong == 0, "%s: %lu values", name, (unsigned long)wrong);
    }
}

static void test_torch(const char *torch) {
    static const char *const kinds[] = { "kinds.pth", "kinds_p4.pth" };
    static const char *const all[] = { "kinds.pth", "kinds_p4.pth", "module_cuda.pth", "nested.pth", "scaler.pth", "old.pth", "whole_module.pth",
                                       "expanded.pth", "tensor.pth" };
    mail_tensors *t;
    mail_error    err;
    mailp_file    file;
    char          name[512];
    size_t        k, i, j;
    float         v[24];
    for (k = 0; k < 2; k++) {
        snprintf(name, sizeof name, "%s_%s", torch, kinds[k]);
        CHECK_MSG(open_file(&t, name, &err) == MAIL_OK, "%s", err.text);
        if (t == NULL) {
            continue;
        }
        CHECK(mail_tensors_count(t) == 19);
        check_ramp(t, "f32", MAIL_F32, 6, 0.25, 0.25);
        check_ramp(t, "f16", MAIL_F16, 6, 0.25, 0.25);
        check_ramp(t, "bf16", MAIL_BF16, 4, 0.25, 0.25);
        check_ramp(t, "f64", MAIL_F64, 2, 0.25, 0.25);
        check_ramp(t, "i8", MAIL_I8, 5, -2, 1);
        check_ramp(t, "u8", MAIL_U8, 4, 0, 1);
        check_ramp(t, "i16", MAIL_I16, 4, -2, 1);
        check_ramp(t, "i32", MAIL_I32, 4, -2, 1);
        check_ramp(t, "i64", MAIL_I64, 4, -2, 1);
        check_ramp(t, "scalar", MAIL_F32, 1, 2.5, 0);
        check_ramp(t, "empty", MAIL_F32, 0, 0, 0);
        check_ramp(t, "empty2", MAIL_F32, 0, 0, 0);
        check_ramp(t, "base", MAIL_F32, 24, 0.25, 0.25);
        check_ramp(t, "alias", MAIL_F32, 24, 0.25, 0.25);
        check_ramp(t, "parameter", MAIL_F32, 4, 0.25, 0.25);
        check_ramp(t, "k\xc3\xa4mera.\xf0\x9f\xa4\x96", MAIL_F32, 1, 0.25, 0);
        CHECK(mail_tensors_find(t, "alias")->data == mail_tensors_find(t, "base")->data);
        CHECK(mail_tensors_find(t, "scalar")->n_dims == 0 && mail_tensors_find(t, "empty2")->n_dims == 3);
        CHECK(mail_tensor_read(mail_tensors_find(t, "bool"), v, 3, &err) == MAIL_OK && v[0] == 1 && v[1] == 0 && v[2] == 1);
        CHECK(mail_tensor_read(mail_tensors_find(t, "transposed"), v, 24, &err) == MAIL_OK);
        for (i = 0; i < 6; i++) {
            for (j = 0; j < 4; j++) {
                CHECK((double)v[i * 4 + j] == 0.25 * (double)(j * 6 + i + 1));
            }
        }
        CHECK(mail_tensor_read(mail_tensors_find(t, "window"), v, 6, &err) == MAIL_OK);
        for (i = 0; i < 2; i++) {
            for (j = 0; j < 3; j++) {
                CHECK((double)v[i * 3 + j] == 0.25 * (double)((i + 1) * 6 + 2 * j + 2));
            }
        }
        mailp_tensors_release(t, mail_tensors_find(t, "base"));
        mail_tensors_close(t);
    }
    for (k = 2; k < 4; k++) {
        snprintf(name, sizeof name, "%s_%s", torch, all[k]);
        CHECK_MSG(open_file(&t, name, &err) == MAIL_OK, "%s", err.text);
        CHECK(mail_tensors_count(t) == 4);
        check_ramp(t, "0.weight", MAIL_F32, 6, 0.25, 0.25);
        check_ramp(t, "1.bias", MAIL_F32, 2, 0.25, 0.25);
        mail_tensors_close(t);
    }
    snprintf(name, sizeof name, "%s_scaler.pth", torch);
    CHECK_MSG(open_file(&t, name, &err) == MAIL_OK, "%s", err.text);
    check_ramp(t, "min", MAIL_F32, 3, -0.25, -0.25);
    mail_tensors_close(t);
    snprintf(name, sizeof name, "%s_old.pth", torch);
    CHECK(open_file(&t, name, &err) == MAIL_E_UNSUPPORTED && strstr(err.text, "before 1.6") && strstr(err.text, "_old.pth") && t == NULL);
    snprintf(name, sizeof name, "%s_whole_module.pth", torch);
    CHECK(open_file(&t, name, &err) == MAIL_E_UNSUPPORTED && strstr(err.text, "'torch.nn.modules.container.Sequential'"));
    snprintf(name, sizeof name, "%s_expanded.pth", torch);
    CHECK(open_file(&t, name, &err) == MAIL_E_UNSUPPORTED && strstr(err.text, "'a': an expanded view"));
    snprintf(name, sizeof name, "%s_tensor.pth", torch);
    CHECK(open_file(&t, name, &err) == MAIL_E_UNSUPPORTED && strstr(err.text, "dictionary"));

    for (k = 0; k < sizeof all / sizeof *all; k++) {
        snprintf(name, sizeof name, "%s/%s_%s", data_folder, torch, all[k]);
        CHECK(mailp_file_open(&file, name, NULL, &err) == MAIL_OK);
        if (k == 0 || k == 2) {
            torture(file.data, file.size);
        }
        mailp_file_close(&file, NULL);
    }
}

static void test_files(void) {
    mail_tensors  *t = (mail_tensors *)1;
    mail_error     err;
    counter        c;
    mail_allocator a = counter_allocator(&c);
    unsigned char *data;
    mailp_file     file;
    size_t         size;
    char           path[512];
    CHECK(mail_tensors_open(&t, "no/such/file", NULL, &err) == MAIL_E_IO && t == NULL && strstr(err.text, "no/such/file") != NULL);
    CHECK(mail_tensors_open(&t, data_folder, NULL, &err) != MAIL_OK && t == NULL);
    memset(path, 'x', sizeof path - 1);  /* of a long path its end is told, and the reason */
    memcpy(path + sizeof path - 8, "end.pth", 8);
    CHECK(mail_tensors_open(&t, path, NULL, &err) == MAIL_E_IO && strncmp(err.text, "...xx", 5) == 0 && strstr(err.text, "xend.pth: cannot be opened: ") != NULL);
#if defined(MAILP_POSIX)
    snprintf(path, sizeof path, "build/fifo.%ld", (long)getpid());  /* nobody writes to it: a call that waits never returns */
    if (mkfifo(path, 0600) == 0) {
        CHECK(mail_tensors_open(&t, path, NULL, &err) == MAIL_E_IO && t == NULL && strstr(err.text, "not a regular file") != NULL);
        (void)unlink(path);
        snprintf(path, sizeof path, "build/fifo.%ld.json", (long)getpid());  /* nor for a checkpoint's settings */
        if (mkfifo(path, 0600) == 0) {
            mail_allocator none;
            mailp_file     beside;
            mailp_source   source;
            memset(&none, 0, sizeof none);
            CHECK(mailp_open_beside(&beside, &source, path, &none, &err) == MAIL_E_IO && strstr(err.text, "not a regular file") != NULL);
            (void)unlink(path);
        }
    } else {
        test_skipped++;
    }
#endif
    CHECK(mail_tensors_open(NULL, "x", NULL, &err) == MAIL_E_ARGUMENT && mail_tensors_open(&t, NULL, NULL, NULL) == MAIL_E_ARGUMENT);
    snprintf(path, sizeof path, "%s/torch1_scaler.pth", data_folder);
    for (c.fail_at = 1; mail_tensors_open(&t, path, &a, &err) != MAIL_OK; c.fail_at++, c.calls = 0) {
        CHECK_MSG(err.code == MAIL_E_MEMORY && c.blocks == 0, "%s", err.text);
    }
    CHECK(c.fail_at > 3 && mail_tensors_count(t) == 4);
    mail_tensors_close(t);
    CHECK(c.blocks == 0);
    c.fail_at = 0;
    CHECK(mailp_read_file(&data, &size, path, &a, &err) == MAIL_OK && size > 0);
    mailp_free(&a, data);
    CHECK(mailp_read_file(&data, &size, path, &a, &err) == MAIL_OK && c.blocks == 1);
    file.data   = data;  /* as where there is no mapping */
    file.size   = size;
    file.mapped = 0;
    mailp_file_close(&file, &a);
    CHECK(c.blocks == 0 && file.data == NULL);
    c.fail_at = c.calls + 1;
    CHECK(mailp_read_file(&data, &size, path, &a, &err) == MAIL_E_MEMORY && data == NULL);
    c.fail_at = 0;
    disk = DISK_NO_SIZE;
    CHECK(mailp_read_file(&data, &size, path, &a, &err) == MAIL_E_IO && data == NULL && strstr(err.text, "size cannot be told") != NULL);
    disk = DISK_NO_READ;
    CHECK(mailp_read_file(&data, &size, path, &a, &err) == MAIL_E_IO && data == NULL && size == 0 && strstr(err.text, "cannot be read") != NULL);
    disk = DISK_FINE;
    CHECK(c.blocks == 0);
    snprintf(path, sizeof path, "%s/empty", data_folder);
    CHECK(mailp_read_file(&data, &size, path, &a, &err) == MAIL_E_FORMAT && strstr(err.text, "empty") != NULL);
    CHECK(mail_tensors_open(&t, path, NULL, &err) == MAIL_E_FORMAT && strstr(err.text, "empty") != NULL);
    CHECK(mailp_read_file(&data, &size, "no/such/file", &a, &err) == MAIL_E_IO && data == NULL && c.blocks == 0);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        data_folder = argv[1];
    }
    test_dtypes();
    test_safetensors();
    test_zip();
    test_pickle();
    test_two_names();
    test_torch("torch1");
    test_torch("torch2");
    test_files();
    return test_end("tensors");
}
