/* A picture: any format, size, stride, alignment and flip, also those that have to be refused, in memory of exactly the bytes
   that its description speaks of, so that AddressSanitizer sees a read beyond any edge. It is brought to a network's size by the
   conversion itself and, if the input asks for it, goes into a session.

   bytes 0 format   1-2 width   3-4 height   5-7 stride   8 flip, alignment, what is missing   9 10 size of the network
         11 where the picture goes   12.. pixels, repeated until the picture is full */
#include "fuzz.h"

#define IMAGE_MOST ((size_t)1 << 20)  /* bytes of a picture that is really made */

typedef struct {
    mail_policy  *policy;
    mail_session *session;
} fuzz_robot;

/* One with float32 and one with int8 weights, whose first convolutions read the picture in different ways; kept. */
static fuzz_robot *fuzz_robot_get(unsigned which) {
    static fuzz_robot robots[2];
    fuzz_robot       *r = &robots[which];
    if (r->policy == NULL) {
        mail_options   o = mail_options_init();
        unsigned char *json;
        size_t         size;
        mail_error     err;
        FUZZ_ASSERT(mailp_read_file(&json, &size, "tests/golden/cases/vision_one/config.json", NULL, &err) == MAIL_OK);
        o.config_json = (const char *)json;
        o.config_size = size;
        o.weights     = which == 0 ? MAIL_WEIGHTS_F32 : MAIL_WEIGHTS_INT8;
        FUZZ_ASSERT(mail_policy_load(&r->policy, "tests/golden/cases/vision_one/model.safetensors", &o, &err) == MAIL_OK);
        FUZZ_ASSERT(mail_session_create(&r->session, r->policy, NULL, &err) == MAIL_OK);
        mailp_free(NULL, json);
    }
    return r;
}

/* A length of a side: mostly small, sometimes at or beyond a limit */
static size_t fuzz_side(unsigned bits) {
    static const size_t odd[8] = { 0, 1, MAIL_MAX_IMAGE - 1, MAIL_MAX_IMAGE, MAIL_MAX_IMAGE + 1, (size_t)1 << 31, SIZE_MAX / 2 + 1, SIZE_MAX };
    return (bits & 0xf000) == 0xf000 ? odd[bits & 7] : bits % 100;
}

/* Does the description make sense, whatever the pixels are? 2: its numbers are so large that either answer will do. */
static int fuzz_expected(const mail_image *image, size_t row, size_t stride) {
    const size_t sample = image->format == MAIL_F32_PLANAR ? 4 : 1;
    if (image->data == NULL || (unsigned)image->format >= MAIL_FORMAT_COUNT || image->width - 1 >= MAIL_MAX_IMAGE ||
        image->height - 1 >= MAIL_MAX_IMAGE) {
        return 0;
    }
    if (((image->format == MAIL_YUYV || image->format == MAIL_NV12) && image->width % 2 == 1) || (image->format == MAIL_NV12 && image->height % 2 == 1)) {
        return 0;
    }
    if (stride < row || (uintptr_t)image->data % sample != 0 || stride % sample != 0) {
        return 0;
    }
    return stride > (size_t)1 << (sizeof(size_t) * 4) ? 2 : 1;
}

/* Bytes from the first to the last pixel; 0: more than are made here. */
static size_t fuzz_bytes(const mail_image *image, size_t row, size_t stride) {
    const size_t rows = image->format == MAIL_F32_PLANAR ? 3 * image->height : image->format == MAIL_NV12 ? image->height / 2 * 3 : image->height;
    if (rows > 1 && stride > IMAGE_MOST / (rows - 1)) {
        return 0;
    }
    return (rows - 1) * stride + row;
}

static void fuzz_convert(const mail_image *image, size_t height, size_t width) {
    static float   table[3 * 256];
    const size_t   n = 3 * width;
    mailp_image_tools tools;
    float         *to = (float *)malloc(n * sizeof *to), *line = (float *)malloc(n * sizeof *line);
    uint8_t       *u8 = (uint8_t *)malloc(n);
    size_t         x, y;
    tools.kernels = mailp_kernels_choose(NULL);
    tools.table   = table;
    tools.rgb     = (unsigned char *)malloc(3 * MAILP_COLUMNS);
    tools.columns = malloc(3 * MAILP_COLUMNS * sizeof(double));
    tools.sums    = (double *)malloc(n * sizeof(double));
    FUZZ_ASSERT(tools.rgb != NULL && tools.columns != NULL && tools.sums != NULL && to != NULL && line != NULL && u8 != NULL);
    for (x = 0; x < 3 * 256; x++) {
        table[x] = ((float)(x % 256) / 255.0f - mailp_image_mean[x / 256]) / mailp_image_std[x / 256];
    }
    for (y = 0; y < height; y++) {
        mailp_image_prepare(to, to + 3, 6, image, y, height, width, &tools);
        mailp_image_prepare_u8(u8, image, y, height, width, &tools, line);
        for (x = 0; x < n; x++) {  /* a mean of values lies between them; floats may be half a step beyond, and round by a little */
            const float *c = table + 256 * (x % 3), slack = image->format == MAIL_F32_PLANAR ? 0.51f / 255 / mailp_image_std[x % 3] : 0;
            FUZZ_ASSERT(to[x] >= c[0] - slack && to[x] <= c[255] + slack);
            FUZZ_ASSERT(fabsf(to[x] - c[u8[x]]) <= 0.51f / 255 / mailp_image_std[x % 3]);
        }
    }
    free(tools.rgb);
    free(tools.columns);
    free(tools.sums);
    free(to);
    free(line);
    free(u8);
}

static void fuzz_session(const mail_image *image, unsigned where, mail_status expected) {
    fuzz_robot  *r = fuzz_robot_get(where & 1);
    float        action[MAIL_MAX_ACTION_DIM];
    mail_error   err;
    size_t       i;
    const size_t n = where & 4 ? where >> 4 : 1;
    err.text[0] = 0;
    if (where & 8) {
        mail_session_reset(r->session, where);
        FUZZ_ASSERT(mail_act(r->session, action, &err) == MAIL_E_STATE);
    }
    if (n != 1 || image == NULL) {
        FUZZ_ASSERT(mail_observe(r->session, image, n, &err) == MAIL_E_ARGUMENT);
        return;
    }
    FUZZ_ASSERT(mail_observe(r->session, image, n, &err) == expected);
    if (expected != MAIL_OK) {
        FUZZ_ASSERT(err.code == expected && err.text[0] != 0);
    } else if (where & 2) {
        FUZZ_ASSERT(mail_act(r->session, action, &err) == MAIL_OK);
        for (i = 0; i < mail_policy_info(r->policy)->action_dim; i++) {
            FUZZ_ASSERT(fabsf(action[i]) <= FLT_MAX);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const size_t strides[8] = { 0, 1, 2, 4, SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 4, (size_t)1 << 31 };
    static const float  hostile[8] = { HUGE_VALF, -HUGE_VALF, -1e-30f, 1.0000001f, 255, 1e-40f, -0.0f, 1 };
    mail_image     image;
    mail_error     err;
    mail_status    status;
    unsigned char *memory;
    size_t         row, stride, bytes, i, offset;
    int            expected, number = 0;
    if (size < 13) {
        return 0;
    }
    memset(&image, 0, sizeof image);
    image.format = (mail_format)(data[0] < 240 ? data[0] % MAIL_FORMAT_COUNT : data[0]);
    image.width  = fuzz_side(data[1] | (unsigned)data[2] << 8);
    image.height = fuzz_side(data[3] | (unsigned)data[4] << 8);
    image.flip   = data[8] & 1;
    row          = mailp_image_row_bytes(image.format, MAILP_MIN(image.width, (size_t)MAIL_MAX_IMAGE));
    switch (data[5] & 7) {
    case 0: case 1: case 2: image.stride = 0; break;
    case 3: case 4: image.stride = row + data[6]; break;
    case 5: image.stride = row - data[6] % 16; break;      /* too short, if not 0; for a narrow picture negative */
    case 6: image.stride = (size_t)0 - row; break;         /* upwards, as some libraries have it */
    default: image.stride = strides[data[6] & 7] + data[7];
    }
    stride   = image.stride != 0 ? image.stride : row;
    offset   = data[8] & 2 ? data[8] >> 4 : 0;
    memory   = NULL;
    bytes    = 0;
    image.data = data;  /* for the look at the description alone */
    if (image.format == MAIL_F32_PLANAR) {
        image.data = (const unsigned char *)hostile + offset % 4;
    }
    expected = (data[8] & 0xc) != 0xc ? fuzz_expected(&image, row, stride) : 0;
    if (expected != 0) {
        bytes = fuzz_bytes(&image, row, stride);
    }
    if (expected != 0 && bytes == 0) {
        return 0;  /* too large to be made */
    }
    memory = (unsigned char *)malloc(offset + MAILP_MAX(bytes, (size_t)1));
    FUZZ_ASSERT(memory != NULL);
    image.data = (data[8] & 0xc) == 0xc ? NULL : memory + offset;
    for (i = 0; expected != 0 && i < bytes; i++) {
        memory[offset + i] = data[12 + i % (size - 12)];
    }
    if (expected != 0 && image.format == MAIL_F32_PLANAR) {  /* bytes of every fourth place become numbers of 0..1, or not */
        for (i = 0; i + 4 <= bytes; i += 4) {
            const unsigned b = memory[offset + i];
            float          f = (float)b / 255.0f;
            if (b >= 248 && data[11] & 0x80) {
                f = b == 248 && data[11] & 0x40 ? hostile[0] - hostile[0] : hostile[b & 7];
            }
            memcpy(memory + offset + i, &f, 4);
        }
        for (i = 0; i < 3 * image.height; i++) {  /* what lies between the rows is nobody's business */
            size_t x;
            for (x = 0; x < image.width; x++) {
                float f;
                memcpy(&f, memory + offset + i * stride + 4 * x, 4);
                number |= !(f >= -1.0f / 512 && f <= 1 + 1.0f / 512);
            }
        }
    }
    memset(&err, 0, sizeof err);
    status = mailp_image_check(&image, &err);
    if (expected == 0 || status != MAIL_OK) {
        FUZZ_ASSERT(err.code == status && err.text[0] != 0);
    }
    FUZZ_ASSERT(status == (expected == 0 ? MAIL_E_ARGUMENT : number ? MAIL_E_NUMBER : MAIL_OK) || (expected == 2 && status == MAIL_E_ARGUMENT));
    if (status == MAIL_OK) {
        const size_t height = 1 + data[9] % 32, width = 1 + data[10] % 32;
        fuzz_convert(&image, height, width);
        fuzz_convert(&image, MAILP_MIN(image.height, (size_t)100), MAILP_MIN(image.width, (size_t)100));  /* mostly its own size */
    }
    if ((data[11] & 0x30) == 0) {
        fuzz_session(data[11] == 0x0f ? NULL : &image, data[11], status);
    } else if ((data[11] & 0x3f) == 0x14) {
        fuzz_session(&image, 4 | (unsigned)data[10] << 4, status);  /* a wrong number of pictures */
    }
    free(memory);
    return 0;
}
