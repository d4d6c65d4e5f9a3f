/* A policy with random weights in the layout of official checkpoints, as a safetensors file in memory: something to time
   where there is no trained one. Values are scaled so that activations stay of order one. Include after mail.h. */
#ifndef RANDOM_POLICY_H
#define RANDOM_POLICY_H

typedef struct random_policy {
    mail_arch   arch;
    size_t      obs_seq, act_seq, action_dim;
    size_t      n_layers, d_state, d_conv;              /* D-Ma, D-Tr */
    size_t      enc_layers, dec_layers, dec_conv;       /* ED-Ma, ED-Tr */
    size_t      n_cameras, height[2], width[2];         /* 0: features are given */
    char       *header;                                 /* JSON, grows */
    size_t      header_size, header_capacity;
    float      *data;
    size_t      n, capacity;
    uint64_t    state;
} random_policy;

/* uniform in -1..1 */
static float random_policy_uniform(random_policy *p) {
    p->state = p->state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(p->state >> 40) / 8388608.0 - 1.0);
}

/* Add a tensor [a][b][c][d] (0: no such dimension) of values mean + scale * uniform. Returns its values. */
static float *random_policy_add(random_policy *p, const char *prefix, const char *name, size_t a, size_t b, size_t c, size_t d,
                                float mean, float scale) {
    const size_t count = a * (b ? b : 1) * (c ? c : 1) * (d ? d : 1);
    const size_t dim[4] = { a, b, c, d };
    char         shape[96];
    float       *values;
    size_t       i, at = 0;
    while (p->capacity - p->n < count) {
        p->capacity = p->capacity * 2 + 1000000;
        p->data = (float *)realloc(p->data, p->capacity * sizeof *p->data);
    }
    while (p->header_capacity - p->header_size < 512) {
        p->header_capacity = p->header_capacity * 2 + 65536;
        p->header = (char *)realloc(p->header, p->header_capacity);
    }
    if (p->data == NULL || p->header == NULL) {
        (void)fprintf(stderr, "out of memory\n");
        exit(2);
    }
    for (i = 0; i < 4 && dim[i] > 0; i++) {
        at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%lu", i ? "," : "", (unsigned long)dim[i]);
    }
    p->header_size += (size_t)snprintf(p->header + p->header_size, 512, "%s\"%s%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%lu,%lu]}",
                                       p->header_size ? "," : "", prefix, name, shape, (unsigned long)(4 * p->n), (unsigned long)(4 * (p->n + count)));
    values = p->data + p->n;
    for (i = 0; i < count; i++) {
        values[i] = mean + scale * random_policy_uniform(p);
    }
    p->n += count;
    return values;
}

/* weight [out][in] and bias [out] of a linear layer */
static void random_policy_linear(random_policy *p, const char *prefix, const char *name, size_t out, size_t in, int bias) {
    char full[96];
    (void)snprintf(full, sizeof full, "%s.weight", name);
    (void)random_policy_add(p, prefix, full, out, in, 0, 0, 0.0f, sqrtf(3.0f / (float)in));
    if (bias) {
        (void)snprintf(full, sizeof full, "%s.bias", name);
        (void)random_policy_add(p, prefix, full, out, 0, 0, 0, 0.0f, 0.1f);
    }
}

static void random_policy_norm(random_policy *p, const char *prefix, const char *name, size_t n, int bias) {
    char full[96];
    (void)snprintf(full, sizeof full, "%s.weight", name);
    (void)random_policy_add(p, prefix, full, n, 0, 0, 0, 1.0f, 0.2f);
    if (bias) {
        (void)snprintf(full, sizeof full, "%s.bias", name);
        (void)random_policy_add(p, prefix, full, n, 0, 0, 0, 0.0f, 0.2f);
    }
}

static void random_policy_conv(random_policy *p, const char *prefix, const char *name, size_t out, size_t in, size_t k) {
    (void)random_policy_add(p, prefix, name, out, in, k, k, 0.0f, sqrtf(6.0f / (float)(in * k * k)));
}

static void random_policy_camera(random_policy *p, const char *prefix, size_t height, size_t width) {
    const size_t h = (height + 31) / 32, w = (width + 31) / 32;
    size_t       stage, block, channels = 64, i;
    float       *pos;
    random_policy_conv(p, prefix, "backbone.nets.0.weight", 64, 3, 7);
    random_policy_norm(p, prefix, "backbone.nets.1", 64, 1);
    for (stage = 0; stage < 4; stage++) {
        const size_t out = (size_t)64 << stage;
        for (block = 0; block < 2; block++) {
            char name[128];
            (void)snprintf(name, sizeof name, "%sbackbone.nets.%lu.%lu.", prefix, (unsigned long)stage + 4, (unsigned long)block);
            random_policy_conv(p, name, "conv1.weight", out, channels, 3);
            random_policy_norm(p, name, "bn1", out, 1);
            random_policy_conv(p, name, "conv2.weight", out, out, 3);
            random_policy_norm(p, name, "bn2", out, 1);
            if (out != channels) {
                random_policy_conv(p, name, "downsample.0.weight", out, channels, 1);
                random_policy_norm(p, name, "downsample.1", out, 1);
            }
            channels = out;
        }
    }
    random_policy_conv(p, prefix, "pool.nets.weight", 32, 512, 1);
    (void)random_policy_add(p, prefix, "pool.nets.bias", 32, 0, 0, 0, 0.0f, 0.1f);
    (void)random_policy_add(p, prefix, "pool.temperature", 1, 0, 0, 0, 1.0f, 0.0f);
    pos = random_policy_add(p, prefix, "pool.pos_x", 1, h * w, 0, 0, 0.0f, 0.0f);
    for (i = 0; i < h * w; i++) {
        pos[i] = w > 1 ? -1.0f + 2.0f * (float)(i % w) / (float)(w - 1) : -1.0f;
    }
    pos = random_policy_add(p, prefix, "pool.pos_y", 1, h * w, 0, 0, 0.0f, 0.0f);
    for (i = 0; i < h * w; i++) {
        pos[i] = h > 1 ? -1.0f + 2.0f * (float)(i / w) / (float)(h - 1) : -1.0f;
    }
    random_policy_linear(p, prefix, "nets.3", 128, 64, 1);
}

static void random_policy_mamba(random_policy *p, const char *trunk, size_t n_layers, size_t n, size_t k) {
    const size_t d = 128, e = 256, r = 8;
    char         name[96];
    size_t       layer, i;
    for (layer = 0; layer < n_layers; layer++) {
        float *values;
        (void)snprintf(name, sizeof name, "model.model.%s.layers.%lu.", trunk, (unsigned long)layer);
        values = random_policy_add(p, name, "mixer.A_log", e, n, 0, 0, 0.0f, 0.3f);
        for (i = 0; i < e * n; i++) {
            values[i] += logf((float)(i % n + 1));
        }
        (void)random_policy_add(p, name, "mixer.D", e, 0, 0, 0, 1.0f, 0.3f);
        random_policy_linear(p, name, "mixer.in_proj", 2 * e, d, 0);
        (void)random_policy_add(p, name, "mixer.conv1d.weight", e, 1, k, 0, 0.0f, sqrtf(3.0f / (float)k));
        (void)random_policy_add(p, name, "mixer.conv1d.bias", e, 0, 0, 0, 0.0f, 0.2f);
        random_policy_linear(p, name, "mixer.x_proj", r + 2 * n, e, 0);
        random_policy_linear(p, name, "mixer.dt_proj", e, r, 1);
        random_policy_linear(p, name, "mixer.out_proj", d, e, 0);
        random_policy_norm(p, name, "norm", d, 1);
    }
    (void)snprintf(name, sizeof name, "model.model.%s.", trunk);
    random_policy_norm(p, name, "norm_f", d, 1);
}

static void random_policy_transformer(random_policy *p, const char *trunk, size_t n_layers, int cross) {
    const size_t d = 128;
    char         name[96];
    size_t       layer, i;
    for (layer = 0; layer < n_layers; layer++) {
        static const char *const linear[] = { "attn.key", "attn.query", "attn.value", "attn.proj",
                                              "attn.cross_key", "attn.cross_query", "attn.cross_value" };
        (void)snprintf(name, sizeof name, "model.model.%s.blocks.%lu.", trunk, (unsigned long)layer);
        random_policy_norm(p, name, "ln1", d, 0);
        random_policy_norm(p, name, "ln2", d, 0);
        for (i = 0; i < (cross ? 7u : 4u); i++) {
            random_policy_linear(p, name, linear[i], d, d, 1);
        }
        random_policy_linear(p, name, "mlp.0", 4 * d, d, 1);
        random_policy_linear(p, name, "mlp.2", d, 4 * d, 1);
    }
    (void)snprintf(name, sizeof name, "model.model.%s.", trunk);
    random_policy_norm(p, name, "ln", d, 0);
}

/* The whole file; the caller frees it. json: what the tensors do not say, for mail_options.config_json. */
static unsigned char *random_policy_make(random_policy *p, size_t *size, char *json, size_t json_size) {
    static const char *const camera[] = { "agentview_rgb", "eye_in_hand_rgb" };
    const char *const head = "model.model.";
    const size_t      d = 128;
    unsigned char    *file;
    char              name[96], cameras[160] = "";
    size_t            i, header, at = 0;
    p->state = 42;
    for (i = 0; i < p->n_cameras; i++) {
        (void)snprintf(name, sizeof name, "obs_encoder.key_model_map.%s.", camera[i]);
        random_policy_camera(p, name, p->height[i], p->width[i]);
        at += (size_t)snprintf(cameras + at, sizeof cameras - at, "%s\"%s\":[%lu,%lu]", i ? "," : "", camera[i],
                               (unsigned long)p->height[i], (unsigned long)p->width[i]);
    }
    (void)random_policy_add(p, head, "pos_emb", 1, p->obs_seq + p->act_seq - 1, d, 0, 0.0f, 0.5f);
    switch (p->arch) {
        case MAIL_D_MA: random_policy_mamba(p, "mamba", p->n_layers, p->d_state, p->d_conv); break;
        case MAIL_D_TR: random_policy_transformer(p, "encoder", p->n_layers, 0); break;
        case MAIL_ED_MA:
            random_policy_mamba(p, "encoder", p->enc_layers, p->d_state, p->d_conv);
            random_policy_mamba(p, "mamba", p->dec_layers, p->d_state, p->dec_conv);
            (void)random_policy_add(p, head, "state_tokens.weight", p->obs_seq + 1, d, 0, 0, 0.0f, 0.7f);
            (void)random_policy_add(p, head, "act_tokens.weight", p->act_seq, d, 0, 0, 0.0f, 0.7f);
            break;
        default:
            random_policy_transformer(p, "encoder", p->enc_layers, 0);
            random_policy_transformer(p, "decoder", p->dec_layers, 1);
            break;
    }
    random_policy_linear(p, head, "tok_emb", d, 256, 1);
    random_policy_linear(p, head, "time_emb.1", 2 * d, d, 1);
    random_policy_linear(p, head, "time_emb.3", d, 2 * d, 1);
    random_policy_linear(p, head, "action_emb", d, p->action_dim, 1);
    random_policy_linear(p, head, "action_pred", p->action_dim, d, 1);

    header = (p->header_size + 2 + 7) / 8 * 8;  /* padded with spaces, as the format's own library does */
    *size = 8 + header + 4 * p->n;
    file = (unsigned char *)malloc(*size);
    if (file == NULL) {
        (void)fprintf(stderr, "out of memory\n");
        exit(2);
    }
    for (i = 0; i < 8; i++) {
        file[i] = (unsigned char)((uint64_t)header >> (8 * i));
    }
    file[8] = '{';
    memcpy(file + 9, p->header, p->header_size);
    file[9 + p->header_size] = '}';
    memset(file + 10 + p->header_size, ' ', header - p->header_size - 2);
    for (i = 0; i < p->n; i++) {  /* little-endian */
        uint32_t bits;
        memcpy(&bits, p->data + i, 4);
        file[8 + header + 4 * i] = (unsigned char)bits;
        file[8 + header + 4 * i + 1] = (unsigned char)(bits >> 8);
        file[8 + header + 4 * i + 2] = (unsigned char)(bits >> 16);
        file[8 + header + 4 * i + 3] = (unsigned char)(bits >> 24);
    }
    free(p->data);
    free(p->header);
    p->data = NULL;
    p->header = NULL;
    at = (size_t)snprintf(json, json_size,
                          "{\"config\":{\"obs_seq\":%lu,\"act_seq\":%lu,\"n_heads\":4,\"n_timesteps\":16,\"schedule\":\"cosine\","
                          "\"clip_denoised\":true,\"predict_epsilon\":true,\"diffusion_x\":0,\"cameras\":{%s}},\"scale_data\":true,"
                          "\"n_action_steps\":%lu,\"scaler\":{", (unsigned long)p->obs_seq, (unsigned long)p->act_seq, cameras,
                          (unsigned long)p->act_seq);
    for (i = 0; i < 4; i++) {
        static const char *const what[] = { "mean", "std", "min", "max" };
        static const char *const value[] = { "0", "0.4", "-0.9375", "0.9375" };
        size_t                   j;
        at += (size_t)snprintf(json + at, json_size - at, "%s\"%s\":[", i ? "," : "", what[i]);
        for (j = 0; j < p->action_dim; j++) {
            at += (size_t)snprintf(json + at, json_size - at, "%s%s", j ? "," : "", value[i]);
        }
        at += (size_t)snprintf(json + at, json_size - at, "]");
    }
    (void)snprintf(json + at, json_size - at, "}}");
    return file;
}

#endif
