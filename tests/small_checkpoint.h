/* Checkpoints of zeros with just enough tensors for a configuration to be read from them: every architecture, algorithm, with
   and without language and cameras. */
#ifndef SMALL_CHECKPOINT_H
#define SMALL_CHECKPOINT_H

typedef struct {
    int         arch, algo, lang;  /* enums of mail.h */
    int         obs_seq, act_seq, cameras, nets_names;
    const char *metadata;          /* members of __metadata__, or NULL */
    const char *without;           /* a tensor to leave out */
    const char *extra;             /* a header entry to add: of no bytes, or U8 and then first in the file, 0 1 0 1 ... */
    double      backbone, nets;    /* a value in the camera's first convolution, under each of its two names */
} spec;

typedef struct {
    char           header[1 << 16];
    unsigned char  data[1 << 18];
    unsigned char *file;
    size_t         n_header, n_data, size;
    const char    *without;
} model;

static void add_tensor(model *m, const char *name, int a, int b, int c, int d, const float *values) {
    size_t count = (size_t)a * (size_t)(b ? b : 1) * (size_t)(c ? c : 1) * (size_t)(d ? d : 1), i;
    char   shape[64];
    if (m->without != NULL && strcmp(m->without, name) == 0) {
        return;
    }
    snprintf(shape, sizeof shape, d ? "%d,%d,%d,%d" : c ? "%d,%d,%d" : b ? "%d,%d" : "%d", a, b, c, d);
    m->n_header += (size_t)snprintf(m->header + m->n_header, sizeof m->header - m->n_header, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%lu,%lu]}",
                                    name, shape, (unsigned long)m->n_data, (unsigned long)(m->n_data + 4 * count));
    for (i = 0; i < count; i++, m->n_data += 4) {
        uint32_t bits = 0;
        if (values != NULL) {
            memcpy(&bits, &values[i], 4);
        }
        m->data[m->n_data]     = (unsigned char)(bits & 255);
        m->data[m->n_data + 1] = (unsigned char)(bits >> 8 & 255);
        m->data[m->n_data + 2] = (unsigned char)(bits >> 16 & 255);
        m->data[m->n_data + 3] = (unsigned char)(bits >> 24);
    }
}

enum { D_MODEL = 8, D_INNER = 16, D_STATE = 3, D_CONV = 2, DT_RANK = 1, ACTION_DIM = 2, FEATURE = 5, KEYPOINTS = 3, LANG_DIM = 7 };

static void add_trunk(model *m, const char *head, const char *name, int layers, int mamba, int cross) {
    static const char *const square[] = { "key", "query", "value", "proj", "cross_key", "cross_query", "cross_value" };
    char full[128];
    int  i, k;
    for (i = 0; i < layers; i++) {
#define ADD(suffix, a, b, c) (snprintf(full, sizeof full, "%s%s.%s.%d.%s", head, name, mamba ? "layers" : "blocks", i, suffix), add_tensor(m, full, a, b, c, 0, NULL))
        if (mamba) {
            ADD("mixer.A_log", D_INNER, D_STATE, 0);
            ADD("mixer.D", D_INNER, 0, 0);
            ADD("mixer.in_proj.weight", 2 * D_INNER, D_MODEL, 0);
            ADD("mixer.conv1d.weight", D_INNER, 1, D_CONV);
            ADD("mixer.dt_proj.weight", D_INNER, DT_RANK, 0);
            ADD("norm.weight", D_MODEL, 0, 0);
        } else {
            ADD("ln1.weight", D_MODEL, 0, 0);
            for (k = 0; k < (cross ? 7 : 4); k++) {
                char suffix[64];
                snprintf(suffix, sizeof suffix, "attn.%s.weight", square[k]);
                ADD(suffix, D_MODEL, D_MODEL, 0);
            }
            ADD("attn.mask", 6, 6, 0);
        }
    }
}

static void make(model *m, const spec *s) {
    const int   ddpm = s->algo == MAIL_DDPM, mamba = s->arch == MAIL_D_MA || s->arch == MAIL_ED_MA, two = s->arch == MAIL_ED_MA || s->arch == MAIL_ED_TR;
    const char *head = ddpm ? "model.model." : "model.";
    char        name[160];
    size_t      n, i;
    int         c;
    memset(m, 0, sizeof *m - 0);
    m->without  = s->without;
    m->n_header = (size_t)snprintf(m->header, sizeof m->header, "{\"__metadata__\":{%s}%s%s", s->metadata == NULL ? "" : s->metadata,
                                   s->extra == NULL ? "" : ",", s->extra == NULL ? "" : s->extra);
    if (s->extra != NULL && strstr(s->extra, "\"U8\"") != NULL) {  /* up to the number behind its last comma */
        m->n_data = (size_t)strtoul(strrchr(s->extra, ',') + 1, NULL, 10);
        for (i = 0; i < m->n_data; i++) {
            m->data[i] = (unsigned char)(i % 2);
        }
    }
#define HEAD(suffix, a, b, c) (snprintf(name, sizeof name, "%s%s", head, suffix), add_tensor(m, name, a, b, c, 0, NULL))
    HEAD("pos_emb", 1, s->obs_seq + s->act_seq - 1 + s->lang, D_MODEL);
    HEAD("tok_emb.weight", D_MODEL, s->cameras ? s->cameras * FEATURE : 4, 0);
    HEAD("action_pred.weight", ACTION_DIM, D_MODEL, 0);
    HEAD("action_pred.bias", ACTION_DIM, 0, 0);
    if (two) {
        add_trunk(m, head, "encoder", 2, mamba, 0);
        add_trunk(m, head, mamba && ddpm ? "mamba" : "decoder", 3, mamba, 1);
    } else {
        add_trunk(m, head, mamba && ddpm ? "mamba" : "encoder", 2, mamba, 0);
    }
    if (ddpm && s->arch == MAIL_ED_MA) {
        HEAD("act_tokens.weight", s->act_seq, D_MODEL, 0);
    } else if (!ddpm) {
        HEAD(two ? "action_token.weight" : "query_embed.weight", s->act_seq, D_MODEL, 0);
    }
    if (s->lang) {
        add_tensor(m, "linear.weight", s->cameras ? s->cameras * FEATURE : 4, LANG_DIM, 0, 0, NULL);
    }
    for (c = 0; c < s->cameras; c++) {  /* "cam-b" sorts before "cam" as part of a longer name, but after it alone */
        static const char *const names[] = { "cam-b", "cam" };
        static const float       pos_x[6] = { -1, 0, 1, -1, 0, 1 }, pos_y[6] = { -1, -1, -1, 1, 1, 1 };
        float                    first[16 * 3 * 49];
#define CAMERA(suffix, a, b, c_, d, values) \
    (snprintf(name, sizeof name, "obs_encoder.key_model_map.%s.%s", names[c], suffix), add_tensor(m, name, a, b, c_, d, values))
        memset(first, 0, sizeof first);
        first[5] = (float)s->backbone;
        if (s->nets_names != 1) {
            CAMERA("backbone.nets.0.weight", 16, 3, 7, 7, first);
            CAMERA("pool.nets.weight", KEYPOINTS, 128, 1, 1, NULL);
            CAMERA("pool.pos_x", 1, 6, 0, 0, pos_x);
            CAMERA("pool.pos_y", 1, 6, 0, 0, pos_y);
        }
        first[5] = (float)s->nets;
        if (s->nets_names != 0) {
            CAMERA("nets.0.nets.0.weight", 16, 3, 7, 7, first);
            CAMERA("nets.1.nets.weight", KEYPOINTS, 128, 1, 1, NULL);
            CAMERA("nets.1.pos_x", 1, 6, 0, 0, pos_x);
            CAMERA("nets.1.pos_y", 1, 6, 0, 0, pos_y);
        }
        CAMERA("nets.3.weight", FEATURE, 2 * KEYPOINTS, 0, 0, NULL);
    }
    if (s->cameras) {
        add_tensor(m, "obs_encoder._dummy_variable", 0, 0, 0, 0, NULL);
    }
    n = m->n_header;
    m->header[n++] = '}';
    m->size = 8 + n + m->n_data;
    m->file = (unsigned char *)malloc(m->size);
    for (i = 0; i < 8; i++) {
        m->file[i] = (unsigned char)(i < 3 ? n >> 8 * i & 255 : 0);
    }
    memcpy(m->file + 8, m->header, n);
    memcpy(m->file + 8 + n, m->data, m->n_data);
}

#endif
