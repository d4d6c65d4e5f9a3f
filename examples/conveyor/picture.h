/* picture.h: what demo.c needs to draw: a canvas with lines, dots and copies, an animated GIF, a PNG or PPM file.

   PNG is written through stb_image_write (Debian: libstb-dev) when that header is found, and PPM otherwise.
   Nothing here allocates; a canvas uses the caller's memory. */

#ifndef CONVEYOR_PICTURE_H
#define CONVEYOR_PICTURE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(__has_include)
#if __has_include(<stb/stb_image_write.h>)
#define PICTURE_PNG 1
#endif
#endif
#ifndef PICTURE_PNG
#define PICTURE_PNG 0
#endif

#if PICTURE_PNG
#if defined(__GNUC__)
#pragma GCC diagnostic push /* stb is not written for these warnings */
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wcast-qual"
#endif
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
#endif

typedef struct picture {
    uint8_t *rgb; /* [height][width][3] */
    int      width, height;
} picture;

static inline void picture_blend(picture p, int x, int y, const uint8_t *colour, float a) {
    if (x >= 0 && y >= 0 && x < p.width && y < p.height) {
        uint8_t *q = p.rgb + ((size_t)y * (size_t)p.width + (size_t)x) * 3;
        int      k;
        for (k = 0; k < 3; k++) {
            q[k] = (uint8_t)((float)q[k] + a * ((float)colour[k] - (float)q[k]) + 0.5f);
        }
    }
}

/* A line with round ends; a dot if both ends are the same. Soft edges. */
static inline void picture_line(picture p, float x0, float y0, float x1, float y1, float r, const uint8_t *colour) {
    float dx = x1 - x0, dy = y1 - y0, dd = dx * dx + dy * dy;
    int   x, y;
    for (y = (int)floorf(fminf(y0, y1) - r - 1.0f); y <= (int)ceilf(fmaxf(y0, y1) + r + 1.0f); y++) {
        for (x = (int)floorf(fminf(x0, x1) - r - 1.0f); x <= (int)ceilf(fmaxf(x0, x1) + r + 1.0f); x++) {
            float px = (float)x + 0.5f - x0, py = (float)y + 0.5f - y0;
            float t = dd > 0.0f ? fminf(fmaxf((px * dx + py * dy) / dd, 0.0f), 1.0f) : 0.0f;
            float cover = r - hypotf(px - t * dx, py - t * dy) + 0.5f;
            if (cover > 0.0f) {
                picture_blend(p, x, y, colour, fminf(cover, 1.0f));
            }
        }
    }
}

/* Copy src into p at (x, y), each pixel zoom x zoom times. */
static inline void picture_paste(picture p, int x, int y, picture src, int zoom) {
    int i, j, di, dj;
    for (j = 0; j < src.height; j++) {
        for (i = 0; i < src.width; i++) {
            const uint8_t *s = src.rgb + ((size_t)j * (size_t)src.width + (size_t)i) * 3;
            for (dj = 0; dj < zoom; dj++) {
                for (di = 0; di < zoom; di++) {
                    picture_blend(p, x + i * zoom + di, y + j * zoom + dj, s, 1.0f);
                }
            }
        }
    }
}

/* Write NAME.png or NAME.ppm; `name` comes without its ending. Returns 0, or 1 if it cannot be written. */
static inline int picture_save(picture p, const char *name) {
    char path[512];
    int  failed;
#if PICTURE_PNG
    snprintf(path, sizeof path, "%s.png", name);
    failed = !stbi_write_png(path, p.width, p.height, 3, p.rgb, p.width * 3);
#else
    FILE *f;
    snprintf(path, sizeof path, "%s.ppm", name);
    f = fopen(path, "wb");
    failed = !f;
    if (f) {
        size_t n = (size_t)p.width * (size_t)p.height * 3;
        fprintf(f, "P6\n%d %d\n255\n", p.width, p.height);
        failed = fwrite(p.rgb, 1, n, f) != n;
        failed |= fclose(f) != 0;
    }
#endif
    if (failed) {
        fprintf(stderr, "cannot write %s\n", path);
    } else {
        printf("wrote %s\n", path);
    }
    return failed;
}

/* ------------------------------------------------------------------------------------------------------ animated GIF

   GIF89a: a header with the size and a palette of 256 colours (here 6 x 7 x 6 levels, made smoother by ordered dither),
   the NETSCAPE block that makes it repeat, then per frame a delay and an LZW stream: variable-length codes, from 9 bits
   up to 12, cut into blocks of at most 255 bytes; code 256 clears the dictionary and 257 ends the picture. */

typedef struct gif {
    FILE    *f;
    int      width, height;
    uint8_t  block[255];
    unsigned used;
    uint32_t bits, n_bits;
    uint16_t child[4096], sibling[4096]; /* the dictionary as a tree: first child, next sibling, last byte */
    uint8_t  last[4096];
} gif;

static inline void gif_u16(gif *g, int v) {
    fputc(v & 255, g->f);
    fputc((v >> 8) & 255, g->f);
}

/* Returns 0, or 1 if the file cannot be opened. */
static inline int gif_open(gif *g, const char *path, int width, int height) {
    static const uint8_t loop[] = "\x21\xFF\x0BNETSCAPE2.0\x03\x01\x00\x00";
    int                  i;
    memset(g, 0, sizeof *g);
    g->f = fopen(path, "wb");
    if (!g->f) {
        return 1;
    }
    g->width = width;
    g->height = height;
    fwrite("GIF89a", 1, 6, g->f);
    gif_u16(g, width);
    gif_u16(g, height);
    fwrite("\xF7\x00\x00", 1, 3, g->f);
    for (i = 0; i < 256; i++) {
        int j = i < 252 ? i : 0;
        fputc((j / 42) * 255 / 5, g->f);
        fputc((j / 6 % 7) * 255 / 6, g->f);
        fputc((j % 6) * 255 / 5, g->f);
    }
    fwrite(loop, 1, sizeof loop, g->f); /* the string's own zero ends the block */
    return 0;
}

static inline void gif_byte(gif *g, unsigned v) {
    g->block[g->used++] = (uint8_t)v;
    if (g->used == 255) {
        fputc(255, g->f);
        fwrite(g->block, 1, 255, g->f);
        g->used = 0;
    }
}

static inline void gif_code(gif *g, unsigned code, unsigned width) {
    g->bits |= code << g->n_bits;
    g->n_bits += width;
    while (g->n_bits >= 8) {
        gif_byte(g, g->bits & 255);
        g->bits >>= 8;
        g->n_bits -= 8;
    }
}

static inline unsigned gif_level(unsigned v, unsigned levels, unsigned threshold) {
    return (v * (levels - 1) + threshold) / 255; /* threshold in 0 .. 254 */
}

/* Add a frame of g's size, shown for `delay` hundredths of a second. */
static inline void gif_frame(gif *g, picture p, int delay) {
    static const uint8_t bayer[16] = { 0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5 };
    unsigned             next = 258, width = 9, prefix = 4096;
    int                  x, y;
    fwrite("\x21\xF9\x04\x00", 1, 4, g->f);
    gif_u16(g, delay);
    fwrite("\x00\x00\x2C\x00\x00\x00\x00", 1, 7, g->f);
    gif_u16(g, g->width);
    gif_u16(g, g->height);
    fwrite("\x00\x08", 1, 2, g->f);
    memset(g->child, 0, sizeof g->child);
    gif_code(g, 256, width);
    for (y = 0; y < g->height; y++) {
        for (x = 0; x < g->width; x++) {
            const uint8_t *q = p.rgb + ((size_t)y * (size_t)p.width + (size_t)x) * 3;
            unsigned       t = bayer[(y & 3) * 4 + (x & 3)] * 8u + 64u, v, node;
            v = gif_level(q[0], 6, t) * 42 + gif_level(q[1], 7, t) * 6 + gif_level(q[2], 6, t);
            if (prefix == 4096) {
                prefix = v;
                continue;
            }
            for (node = g->child[prefix]; node && g->last[node] != v; node = g->sibling[node]) {
            }
            if (node) {
                prefix = node;
                continue;
            }
            gif_code(g, prefix, width);
            if (next < 4096) {
                if (next == (1u << width)) {
                    width++;
                }
                g->last[next] = (uint8_t)v;
                g->sibling[next] = g->child[prefix];
                g->child[prefix] = (uint16_t)next;
                next++;
            } else {
                gif_code(g, 256, width);
                memset(g->child, 0, sizeof g->child);
                next = 258;
                width = 9;
            }
            prefix = v;
        }
    }
    gif_code(g, prefix, width);
    if (next == (1u << width) && width < 12) {
        width++;
    }
    gif_code(g, 257, width);
    gif_code(g, 0, 7); /* push out what is left */
    g->bits = g->n_bits = 0;
    if (g->used) {
        fputc((int)g->used, g->f);
        fwrite(g->block, 1, g->used, g->f);
        g->used = 0;
    }
    fputc(0, g->f);
}

/* Returns 0, or 1 if something could not be written. */
static inline int gif_close(gif *g) {
    int failed;
    fputc(0x3B, g->f);
    failed = ferror(g->f);
    failed |= fclose(g->f);
    return failed != 0;
}

#endif
