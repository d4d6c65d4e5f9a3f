/* Pictures of every format, stride, flip and size, brought to the network's input; and those that are refused.
   cc -O2 -I.. test_images.c -lm */
#define MAIL_IMPLEMENTATION
#include "mail.h"
#include "test.h"

#define SIDE_MAX 80
#define WIDE     2100  /* more than MAILP_COLUMNS */

static const double average[3] = { 0.485, 0.456, 0.406 }, deviation[3] = { 0.229, 0.224, 0.225 };
static const char *const format_names[] = { "rgb8", "bgr8", "rgba8", "bgra8", "gray8", "yuyv", "nv12", "f32 planar" };

/* A picture as red, green, blue in 0..255 from its top, by formulas that share nothing with the library. */
typedef struct {
    size_t height, width;
    double v[SIDE_MAX][WIDE][3];
} picture;

static double round8(double v) {
    return floor((v < 0 ? 0 : v > 255 ? 255 : v) + 0.5);
}

/* BT.601, limited range, from its definition: Kr = 0.299, Kb = 0.114 */
static void yuv(double *rgb, double y, double u, double v) {
    double l = (y - 16) / 219, pb = (u - 128) / 224, pr = (v - 128) / 224;
    rgb[0] = round8(255 * (l + 2 * (1 - 0.299) * pr));
    rgb[2] = round8(255 * (l + 2 * (1 - 0.114) * pb));
    rgb[1] = round8(255 * (l - (2 * (1 - 0.299) * 0.299 * pr + 2 * (1 - 0.114) * 0.114 * pb) / (1 - 0.299 - 0.114)));
}

/* Fill memory with a random picture of that format and say in p what it shows. Padding bytes are 0xEE. */
static void make(mail_image *image, unsigned char *memory, picture *p, mail_format format, size_t height, size_t width, size_t padding, int flip) {
    static const size_t bytes[] = { 3, 3, 4, 4, 1, 2, 1, 4 };
    size_t              stride = bytes[format] * width + padding, y, x, c;
    memset(image, 0, sizeof *image);
    image->data   = memory;
    image->width  = width;
    image->height = height;
    image->stride = padding ? stride : 0;
    image->format = format;
    image->flip   = flip;
    memset(memory, 0xee, stride * height * 3);
    p->height = height;
    p->width  = width;
    for (y = 0; y < height; y++) {
        size_t         top = flip ? height - 1 - y : y;
        unsigned char *row = memory + y * stride;
        for (x = 0; x < width; x++) {
            double        *to = p->v[top][x];
            unsigned char *at = row + bytes[format] * x;
            switch (format) {
                case MAIL_RGB8: case MAIL_RGBA8:
                    for (c = 0; c < 3; c++) {
                        to[c] = at[c] = (unsigned char)(256 * test_uniform());
                    }
                    break;
                case MAIL_BGR8: case MAIL_BGRA8:
                    for (c = 0; c < 3; c++) {
                        to[2 - c] = at[c] = (unsigned char)(256 * test_uniform());
                    }
                    break;
                case MAIL_GRAY8:
                    to[0] = to[1] = to[2] = at[0] = (unsigned char)(256 * test_uniform());
                    break;
                case MAIL_YUYV:
                    at[0] = (unsigned char)(256 * test_uniform());
                    at[1] = (unsigned char)(256 * test_uniform());
                    if (x % 2 == 1) {
                        yuv(p->v[top][x - 1], at[-2], at[-1], at[1]);
                        yuv(to, at[0], at[-1], at[1]);
                    }
                    break;
                case MAIL_NV12:
                    at[0] = (unsigned char)(256 * test_uniform());
                    memory[(height + y / 2) * stride + x] = (unsigned char)(256 * test_uniform());
                    break;
                case MAIL_F32_PLANAR:
                    for (c = 0; c < 3; c++) {
                        float v = (float)test_uniform();
                        memcpy(memory + (c * height + y) * stride + 4 * x, &v, 4);
                        to[c] = 255 * (double)v;
                    }
                    break;
                case MAIL_FORMAT_COUNT: default:
                    break;
            }
        }
    }
    for (y = 0; format == MAIL_NV12 && y < height; y++) {
        for (x = 0; x < width; x++) {
            const unsigned char *chroma = memory + (height + y / 2) * stride + x / 2 * 2;
            yuv(p->v[flip ? height - 1 - y : y][x], memory[y * stride + x], chroma[0], chroma[1]);
        }
    }
}

/* Weight of input j in output i when n samples become m, from the definition: the overlap of the two intervals when
   shrinking, a hat function of the distance of the centres, clamped at the ends, when enlarging. */
static double filter(size_t i, size_t j, size_t n, size_t m) {
    if (m <= n) {
        double lo = (double)i * (double)n / (double)m, hi = (double)(i + 1) * (double)n / (double)m;
        double a = lo > (double)j ? lo : (double)j, b = hi < (double)(j + 1) ? hi : (double)(j + 1);
        return b > a ? (b - a) * (double)m / (double)n : 0;
    } else {
        double at = ((double)i + 0.5) * (double)n / (double)m - 0.5, d;
        at = at < 0 ? 0 : at > (double)(n - 1) ? (double)(n - 1) : at;
        d  = fabs(at - (double)j);
        return d < 1 ? 1 - d : 0;
    }
}

static float             table[3 * 256];
static mailp_image_tools tools;

static void make_tools(void) {
    static unsigned char rgb[3 * MAILP_COLUMNS];
    static double        columns[3 * MAILP_COLUMNS], sums[WIDE * 3];
    tools.table   = table;
    tools.rgb     = rgb;
    tools.columns = columns;
    tools.sums    = sums;
}

/* All rows of image at height x width against p resized by the definition. 8-bit results are rounded to 8 bits, where a tie
   or a rounding of the reference may go either way: one step of u is allowed there when the reference is that near. */
static void compare(const char *what, const mail_image *image, const picture *p, size_t height, size_t width) {
    const int is_float = image->format == MAIL_F32_PLANAR, resized = p->height != height || p->width != width;
    size_t    y, x, c, i, j, wrong = 0, ties = 0;
    static float row[WIDE * 3];
    for (y = 0; y < height; y++) {
        mailp_image_prepare(row, row + 3, 6, image, y, height, width, &tools);
        for (x = 0; x < width; x++) {
            for (c = 0; c < 3; c++) {
                double v = 0, expected, slack = 2e-6;
                for (i = 0; i < p->height; i++) {
                    double wy = filter(y, i, p->height, height);
                    for (j = 0; wy > 0 && j < p->width; j++) {
                        v += wy * filter(x, j, p->width, width) * p->v[i][j][c];
                    }
                }
                if (!is_float && resized) {
                    if (fabs(v - floor(v) - 0.5) < 1e-9) {
                        slack += 1.01 / 255 / deviation[c];
                        ties++;
                    }
                    v = floor(v + 0.5);
                }
                expected = (v / 255 - average[c]) / deviation[c];
                /* conversion from YUV rounds coefficients to 1/65536 and may differ by one step at ties */
                if ((image->format == MAIL_YUYV || image->format == MAIL_NV12)) {
                    slack += 1.01 / 255 / deviation[c];
                }
                if (!(fabs((double)row[3 * x + c] - expected) <= slack)) {
                    if (wrong++ == 0) {
                        printf("%s: row %lu, column %lu, channel %lu: %.9g, expected %.9g\n", what, (unsigned long)y,
                               (unsigned long)x, (unsigned long)c, (double)row[3 * x + c], expected);
                    }
                }
            }
        }
    }
    CHECK_MSG(wrong == 0, "%s: %lu values are wrong", what, (unsigned long)wrong);
    CHECK_MSG(ties < height * width * 3, "%s: nothing was compared exactly", what);
}

static void test_formats(void) {
    static unsigned char  memory[SIDE_MAX * (WIDE * 4 + 64) * 3];
    static picture        p;
    static const size_t   sizes[][4] = {  /* of the picture, of the network: height, width */
        { 20, 30, 20, 30 }, { 60, 70, 20, 30 }, { 20, 30, 60, 70 }, { 64, 10, 16, 40 }, { 33, 48, 32, 32 },
        { 2, 2, 7, 9 }, { 75, 80, 1, 1 }, { 40, 40, 80, 20 }, { 4, WIDE, 2, 16 }, { 2, 1030, 2, 1032 }, { 2, 1100, 2, 1 },
    };
    size_t format, i, padding;
    int    flip;
    for (format = 0; format < MAIL_FORMAT_COUNT; format++) {
        for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            const int wide = sizes[i][1] > SIDE_MAX;  /* once is enough */
            for (padding = 0; padding <= (wide ? 0 : 16); padding += 16) {
                for (flip = 0; flip < (wide ? 1 : 2); flip++) {
                    mail_image image;
                    mail_error err;
                    char       what[128];
                    size_t     height = sizes[i][0];
                    if (format == MAIL_NV12) {
                        height += height % 2;
                    }
                    make(&image, memory, &p, (mail_format)format, height, sizes[i][1], padding, flip);
                    err.text[0] = 0;
                    CHECK_MSG(mailp_image_check(&image, &err) == MAIL_OK, "%s", err.text);
                    sprintf(what, "%s %lux%lu -> %lux%lu padding %lu flip %d", format_names[format], (unsigned long)height,
                            (unsigned long)sizes[i][1], (unsigned long)sizes[i][2], (unsigned long)sizes[i][3],
                            (unsigned long)padding, flip);
                    compare(what, &image, &p, sizes[i][2], sizes[i][3]);
                }
            }
        }
    }
}

/* At the network's own size every 8-bit value takes exactly the float32 steps of the model: / 255, - average, / deviation. */
static void test_exact(void) {
    unsigned char pixels[256 * 3];
    float         row[256 * 3];
    mail_image    image;
    size_t        u, c;
    int           same = 1;
    memset(&image, 0, sizeof image);
    for (u = 0; u < 256 * 3; u++) {
        pixels[u] = (unsigned char)(u / 3);
    }
    image.data   = pixels;
    image.width  = 256;
    image.height = 1;
    mailp_image_prepare(row, row + 3, 6, &image, 0, 1, 256, &tools);
    for (u = 0; u < 256; u++) {
        for (c = 0; c < 3; c++) {
            volatile float v = (float)u / 255.0f;
            v = v - (float)average[c];
            v = v / (float)deviation[c];
            same = same && v == row[3 * u + c];
        }
    }
    CHECK(same);
}

static void refuse(const char *what, mail_image image, mail_status status, const char *word) {
    mail_error  err;
    mail_status found;
    memset(&err, 0, sizeof err);
    found = mailp_image_check(&image, &err);
    CHECK_MSG(found == status && strstr(err.text, word) != NULL, "%s: status %d, '%s'", what, (int)found, err.text);
}

static void test_refused(void) {
    static float  floats[3 * 4 * 4];
    unsigned char bytes[4 * 4 * 4];
    mail_image    good, bad;
    float         infinite = 1e30f;
    infinite *= 1e30f;
    memset(&good, 0, sizeof good);
    memset(bytes, 0, sizeof bytes);
    good.data   = bytes;
    good.width  = 4;
    good.height = 4;
    CHECK(mailp_image_check(&good, NULL) == MAIL_OK);
    CHECK(mailp_image_check(NULL, NULL) == MAIL_E_ARGUMENT);
    bad = good; bad.data = NULL;                          refuse("no data", bad, MAIL_E_ARGUMENT, "no data");
    bad = good; bad.width = 0;                            refuse("no width", bad, MAIL_E_ARGUMENT, "size 0 x 4");
    bad = good; bad.height = 0;                           refuse("no height", bad, MAIL_E_ARGUMENT, "size 4 x 0");
    bad = good; bad.width = MAIL_MAX_IMAGE + 1;           refuse("too wide", bad, MAIL_E_ARGUMENT, "size");
    bad = good; bad.height = SIZE_MAX;                    refuse("too high", bad, MAIL_E_ARGUMENT, "size");
    bad = good; bad.format = MAIL_FORMAT_COUNT;           refuse("format", bad, MAIL_E_ARGUMENT, "format");
    bad = good; bad.stride = 11;                          refuse("stride", bad, MAIL_E_ARGUMENT, "stride 11");
    bad = good; bad.stride = SIZE_MAX / 4;                refuse("huge stride", bad, MAIL_E_ARGUMENT, "stride");
    bad = good; bad.stride = SIZE_MAX;                    refuse("huge stride", bad, MAIL_E_ARGUMENT, "stride");
    bad = good; bad.format = MAIL_YUYV; bad.width = 3;    refuse("odd yuyv", bad, MAIL_E_ARGUMENT, "width 3");
    bad = good; bad.format = MAIL_NV12; bad.width = 3;    refuse("odd nv12", bad, MAIL_E_ARGUMENT, "width 3");
    bad = good; bad.format = MAIL_NV12; bad.height = 3;   refuse("odd nv12", bad, MAIL_E_ARGUMENT, "height 3");
    good.data   = floats;
    good.format = MAIL_F32_PLANAR;
    CHECK(mailp_image_check(&good, NULL) == MAIL_OK);
    bad = good; bad.data = (const char *)floats + 1;      refuse("misaligned", bad, MAIL_E_ARGUMENT, "multiple of 4");
    bad = good; bad.height = 2; bad.stride = 18;          refuse("misaligned rows", bad, MAIL_E_ARGUMENT, "multiple of 4");
    floats[47] = infinite;                                refuse("inf", good, MAIL_E_NUMBER, "column 3, row 3");
    floats[47] = infinite - infinite;                     refuse("nan", good, MAIL_E_NUMBER, "channel 2");
    floats[47] = 200;                                     refuse("0..255", good, MAIL_E_NUMBER, "expected 0..1");
    floats[47] = -0.01f;                                  refuse("negative", good, MAIL_E_NUMBER, "-0.00999999978");
    floats[47] = 1.01f;                                   refuse("too bright", good, MAIL_E_NUMBER, "1.00999999");
    floats[47] = 1.0000006f;  /* of a bicubic filter whose result is not clamped */
    floats[0]  = -1e-6f;
    CHECK(mailp_image_check(&good, NULL) == MAIL_OK);
    floats[47] = 1;
    CHECK(mailp_image_check(&good, NULL) == MAIL_OK);
}

int main(void) {
    static const char *const isas[] = { "scalar", "avx2", "avx512", "neon" };
    size_t i;
    make_tools();
    for (i = 0; i < 3 * 256; i++) {
        volatile float v = (float)(i % 256) / 255.0f;
        v = v - (float)average[i / 256];
        table[i] = v / (float)deviation[i / 256];
    }
    for (i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        tools.kernels = mailp_kernels_choose(isas[i]);
        if (tools.kernels != NULL) {
            test_formats();
        }
    }
    test_exact();
    test_refused();
    return test_end("images");
}
