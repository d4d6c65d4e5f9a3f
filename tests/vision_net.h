/* A camera network with random weights, as a safetensors file in memory: for test_vision.c and bench_vision.c.
   Include after mail.h and test.h. */
#ifndef VISION_NET_H
#define VISION_NET_H

#define MAX_TENSORS 128
#define PREFIX      "obs_encoder.key_model_map.cam."

typedef struct {
    char   name[128];
    size_t shape[4], n_dims, count;
    float *v;
} weight;

typedef struct {
    weight         w[MAX_TENSORS];
    size_t         n;
    size_t         height, width, res_width, n_keypoints, feature_dim;
    unsigned char *file;
    size_t         size;
} network;

static float *put(network *net, const char *name, size_t n_dims, size_t d0, size_t d1, size_t d2, size_t d3, double scale, double shift) {
    weight *w = &net->w[net->n++];
    size_t  i;
    snprintf(w->name, sizeof w->name, "%s%s", PREFIX, name);
    w->n_dims   = n_dims;
    w->shape[0] = d0;
    w->shape[1] = d1;
    w->shape[2] = d2;
    w->shape[3] = d3;
    w->count    = 1;
    for (i = 0; i < n_dims; i++) {
        w->count *= w->shape[i];
    }
    w->v = (float *)malloc(w->count * sizeof(float));
    for (i = 0; i < w->count; i++) {
        w->v[i] = (float)(shift + scale * (2 * test_uniform() - 1));
    }
    return w->v;
}

static void put_conv(network *net, const char *conv, const char *norm, size_t c_out, size_t c_in, size_t size) {
    char   text[96];
    double scale = sqrt(6.0 / (double)(c_in * size * size));  /* keeps the variance through conv and relu */
    snprintf(text, sizeof text, "backbone.%s.weight", conv);
    put(net, text, 4, c_out, c_in, size, size, scale, 0);
    snprintf(text, sizeof text, "backbone.%s.weight", norm);
    put(net, text, 1, c_out, 0, 0, 0, 0.4, 1);
    snprintf(text, sizeof text, "backbone.%s.bias", norm);
    put(net, text, 1, c_out, 0, 0, 0, 0.4, 0);
}

static const float *get(const network *net, const char *name) {
    char   full[128];
    size_t i;
    snprintf(full, sizeof full, "%s%s", PREFIX, name);
    for (i = 0; i < net->n; i++) {
        if (strcmp(net->w[i].name, full) == 0) {
            return net->w[i].v;
        }
    }
    printf("no tensor %s\n", full);
    exit(1);
}

/* Its tensors as a file, anew if there was one. */
static void network_pack(network *net) {
    size_t i, j, at, data;
    char  *header;
    free(net->file);
    header = (char *)malloc(400 * net->n);
    at = (size_t)sprintf(header, "{");
    for (i = 0, data = 0; i < net->n; i++) {
        const weight *w = &net->w[i];
        at += (size_t)sprintf(header + at, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "", w->name);
        for (j = 0; j < w->n_dims; j++) {
            at += (size_t)sprintf(header + at, "%s%lu", j ? "," : "", (unsigned long)w->shape[j]);
        }
        at += (size_t)sprintf(header + at, "],\"data_offsets\":[%lu,%lu]}", (unsigned long)data,
                              (unsigned long)(data + 4 * w->count));
        data += 4 * w->count;
    }
    header[at++] = '}';
    while (at % 8 != 0) {
        header[at++] = ' ';
    }
    net->size = 8 + at + data;
    net->file = (unsigned char *)malloc(net->size);
    for (i = 0; i < 8; i++) {
        net->file[i] = (unsigned char)((unsigned long long)at >> (8 * i));
    }
    memcpy(net->file + 8, header, at);
    for (i = 0, data = 8 + at; i < net->n; i++) {
        for (j = 0; j < net->w[i].count; j++, data += 4) {
            uint32_t bits;
            memcpy(&bits, &net->w[i].v[j], 4);
            net->file[data]     = (unsigned char)bits;
            net->file[data + 1] = (unsigned char)(bits >> 8);
            net->file[data + 2] = (unsigned char)(bits >> 16);
            net->file[data + 3] = (unsigned char)(bits >> 24);
        }
    }
    free(header);
}

static void network_make(network *net, size_t height, size_t width, size_t res_width, size_t n_keypoints, size_t feature_dim) {
    size_t i, j, c = res_width, mh = (height + 31) / 32, mw = (width + 31) / 32;
    char   conv[64], norm[64];
    float *x, *y;
    memset(net, 0, sizeof *net);
    net->height      = height;
    net->width       = width;
    net->res_width   = res_width;
    net->n_keypoints = n_keypoints;
    net->feature_dim = feature_dim;
    put_conv(net, "nets.0", "nets.1", c, 3, 7);
    for (i = 0; i < 4; i++) {
        for (j = 0; j < 2; j++) {
            size_t c_in = i > 0 && j == 0 ? c / 2 : c;
            snprintf(conv, sizeof conv, "nets.%d.%d.conv1", (int)i + 4, (int)j);
            snprintf(norm, sizeof norm, "nets.%d.%d.bn1", (int)i + 4, (int)j);
            put_conv(net, conv, norm, c, c_in, 3);
            snprintf(conv, sizeof conv, "nets.%d.%d.conv2", (int)i + 4, (int)j);
            snprintf(norm, sizeof norm, "nets.%d.%d.bn2", (int)i + 4, (int)j);
            put_conv(net, conv, norm, c, c, 3);
            if (c_in != c) {
                snprintf(conv, sizeof conv, "nets.%d.%d.downsample.0", (int)i + 4, (int)j);
                snprintf(norm, sizeof norm, "nets.%d.%d.downsample.1", (int)i + 4, (int)j);
                put_conv(net, conv, norm, c, c_in, 1);
            }
        }
        c *= i < 3 ? 2 : 1;
    }
    put(net, "pool.nets.weight", 4, n_keypoints, c, 1, 1, sqrt(3.0 / (double)c), 0);
    put(net, "pool.nets.bias", 1, n_keypoints, 0, 0, 0, 0.5, 0);
    put(net, "pool.temperature", 1, 1, 0, 0, 0, 0, 0.75);
    x = put(net, "pool.pos_x", 2, 1, mh * mw, 0, 0, 0, 0);
    y = put(net, "pool.pos_y", 2, 1, mh * mw, 0, 0, 0, 0);
    for (i = 0; i < mh * mw; i++) {
        x[i] = mw == 1 ? -1.0f : (float)(-1 + 2 * (double)(i % mw) / (double)(mw - 1));
        y[i] = mh == 1 ? -1.0f : (float)(-1 + 2 * (double)(i / mw) / (double)(mh - 1));
    }
    put(net, "nets.3.weight", 2, feature_dim, 2 * n_keypoints, 0, 0, sqrt(1.5 / (double)n_keypoints), 0);
    put(net, "nets.3.bias", 1, feature_dim, 0, 0, 0, 0.5, 0);
    network_pack(net);
}

static void network_free(network *net) {
    size_t i;
    for (i = 0; i < net->n; i++) {
        free(net->w[i].v);
    }
    free(net->file);
}

#endif
