/* Structure-aware: a good checkpoint from tests/golden with a few hostile changes. The file stays a valid one; sizes, types and
   numbers in it do not. Whatever loads must act: actions are finite or there is an error, and memory is returned.

   byte 0      which checkpoint
   then, 6 bytes each: what to do, to which tensor (u16), where (u16), with what */
#include "fuzz.h"

#define FUZZ_CASES   10
#define FUZZ_TENSORS 400

static const char *const fuzz_cases[FUZZ_CASES] = { "d_ma_ddpm_h5", "d_ma_bc_lang_h1", "ed_ma_ddpm_lang_h5", "ed_ma_bc_h5", "d_tr_ddpm_h1", "d_tr_bc_h5",
                                                    "ed_tr_ddpm_h5", "ed_tr_bc_lang_h1", "vision_one", "noscale_d_ma" };

typedef struct {
    unsigned char *model, *json;
    size_t         model_size, json_size;
    mail_tensors  *tensors;
} fuzz_base;

typedef struct {
    char     name[200];
    float   *values;
    size_t   count;
    unsigned n_dims, dtype;
    uint64_t shape[MAIL_MAX_DIMS];
} fuzz_tensor;

static const fuzz_base *fuzz_load(unsigned which) {
    static fuzz_base base[FUZZ_CASES];
    fuzz_base       *b = &base[which];
    mail_error       err;
    char             path[256];
    if (b->tensors == NULL) {
        snprintf(path, sizeof path, "tests/golden/cases/%s/model.safetensors", fuzz_cases[which]);
        if (mailp_read_file(&b->model, &b->model_size, path, NULL, &err)) {  /* the _h1 and _short cases point to others */
            fprintf(stderr, "%s\n", err.text);
            exit(1);
        }
        snprintf(path, sizeof path, "tests/golden/cases/%s/config.json", fuzz_cases[which]);
        FUZZ_ASSERT(mailp_read_file(&b->json, &b->json_size, path, NULL, &err) == MAIL_OK);
        FUZZ_ASSERT(mail_tensors_open_memory(&b->tensors, b->model, b->model_size, NULL, &err) == MAIL_OK);
    }
    return b;
}

static size_t fuzz_product(const uint64_t *shape, unsigned n_dims) {
    uint64_t n = 1;
    unsigned d;
    for (d = 0; d < n_dims; d++) {
        if (shape[d] != 0 && n > (1u << 20) / shape[d]) {
            return (size_t)1 << 20;
        }
        n *= shape[d];
    }
    return (size_t)n;
}

/* Write the tensors as a file; *size: its bytes. */
static unsigned char *fuzz_write(size_t *size, const fuzz_tensor *x, size_t n) {
    size_t         header = 2, data = 0, i, k;
    unsigned char *file, *p;
    char          *text;
    for (i = 0; i < n; i++) {
        header += 400;
        data += x[i].count * mail_dtype_size((mail_dtype)x[i].dtype);
    }
    text = (char *)malloc(header + 8);
    file = (unsigned char *)malloc(8 + header + data + 8);
    FUZZ_ASSERT(text != NULL && file != NULL);
    header = 0;
    text[header++] = '{';
    for (i = 0, data = 0; i < n; i++) {
        size_t bytes = x[i].count * mail_dtype_size((mail_dtype)x[i].dtype);
        header += (size_t)sprintf(text + header, "%s\"%.180s\":{\"dtype\":\"%s\",\"shape\":[", i == 0 ? "" : ",", x[i].name, mail_dtype_name((mail_dtype)x[i].dtype));
        for (k = 0; k < x[i].n_dims; k++) {
            header += (size_t)sprintf(text + header, "%s%lu", k == 0 ? "" : ",", (unsigned long)x[i].shape[k]);
        }
        header += (size_t)sprintf(text + header, "],\"data_offsets\":[%lu,%lu]}", (unsigned long)data, (unsigned long)(data + bytes));
        data += bytes;
    }
    text[header++] = '}';
    for (i = 0; i < 8; i++) {
        file[i] = (unsigned char)((uint64_t)header >> 8 * i & 255);
    }
    memcpy(file + 8, text, header);
    free(text);
    p = file + 8 + header;
    for (i = 0; i < n; i++) {
        for (k = 0; k < x[i].count; k++) {
            uint64_t bits = 0;
            size_t   b, bytes = mail_dtype_size((mail_dtype)x[i].dtype);
            float    f = x[i].values[k];
            uint32_t u;
            double   d = (double)f;
            memcpy(&u, &f, 4);
            switch (x[i].dtype) {
            case MAIL_F32: bits = u; break;
            case MAIL_F64: memcpy(&bits, &d, 8); break;
            default: bits = u >> 16; break;  /* any bytes will do */
            }
            for (b = 0; b < bytes; b++) {
                *p++ = (unsigned char)(bits >> 8 * b & 255);
            }
        }
    }
    *size = (size_t)(p - file);
    return file;
}

static void fuzz_act(const mail_policy *policy) {
    const mail_info     *info = mail_policy_info(policy);
    mail_session_options o = mail_session_options_init();
    mail_session        *session;
    mail_error           err;
    size_t               i, step, n = 0;
    float               *features, *goal, actions[MAIL_MAX_ACTION_DIM];
    unsigned char       *pixels;
    mail_image           images[MAIL_MAX_CAMERAS];
    o.allocator.alloc = fuzz_alloc;
    o.allocator.free  = fuzz_free;
    if (mail_session_create(&session, policy, &o, &err) != MAIL_OK) {
        return;
    }
    features = (float *)calloc(info->state_dim + 1, sizeof *features);
    goal     = (float *)calloc(info->lang_dim + 1, sizeof *goal);
    for (i = 0; i < info->n_cameras; i++) {
        n = MAILP_MAX(n, info->cameras[i].width * info->cameras[i].height * 3);
    }
    pixels = (unsigned char *)calloc(n + 1, 1);
    FUZZ_ASSERT(features != NULL && goal != NULL && pixels != NULL);
    for (i = 0; i < n; i++) {
        pixels[i] = (unsigned char)(i * 7);
    }
    memset(images, 0, sizeof images);
    for (i = 0; i < info->n_cameras; i++) {
        images[i].data   = pixels;
        images[i].width  = info->cameras[i].width;
        images[i].height = info->cameras[i].height;
        images[i].format = MAIL_RGB8;
    }
    if (info->has_lang) {
        (void)mail_session_set_goal(session, goal, info->lang_dim, &err);
    }
    for (step = 0; step < 3; step++) {
        mail_status status = info->n_cameras > 0 ? mail_observe(session, images, info->n_cameras, &err)
                                                 : mail_observe_features(session, features, info->state_dim, &err);
        if (status == MAIL_OK && mail_act(session, actions, &err) == MAIL_OK) {
            for (i = 0; i < info->action_dim; i++) {
                FUZZ_ASSERT(actions[i] - actions[i] == 0);
            }
        }
    }
    free(features);
    free(goal);
    free(pixels);
    mail_session_free(session);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const float hostile[16] = { HUGE_VALF, -HUGE_VALF, FLT_MAX, -FLT_MAX, FLT_MIN, 1e-40f, 0, -1, 1, 1e30f, -1e30f, 1e-30f, 88, -104, 1e4f, 0.5f };
    static const unsigned sizes[16] = { 0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 64, 256, 65535 };
    static fuzz_tensor x[FUZZ_TENSORS];
    const fuzz_base *base;
    char            *json;
    unsigned char   *file;
    size_t           n, i, at, file_size;
    mail_policy     *policy;
    mail_options     o;
    mail_error       err;
    mail_status      status;
    if (size < 1) {
        return 0;
    }
    base = fuzz_load(data[0] % FUZZ_CASES);
    n    = mail_tensors_count(base->tensors);
    FUZZ_ASSERT(n + 16 < FUZZ_TENSORS);
    for (i = 0; i < n; i++) {
        const mail_tensor *t = mail_tensors_at(base->tensors, i);
        snprintf(x[i].name, sizeof x[i].name, "%s", t->name);
        x[i].n_dims = t->n_dims;
        x[i].dtype  = MAIL_F32;
        x[i].count  = (size_t)t->count;
        memcpy(x[i].shape, t->shape, sizeof x[i].shape);
        x[i].values = (float *)malloc((size_t)t->count * sizeof(float) + 1);
        FUZZ_ASSERT(x[i].values != NULL && mail_tensor_read(t, x[i].values, x[i].count, &err) == MAIL_OK);
    }
    json = (char *)malloc(base->json_size + 1);
    memcpy(json, base->json, base->json_size);
    for (at = 1; at + 6 <= size && at < 1 + 6 * 12; at += 6) {
        const unsigned which = data[at + 1] | (unsigned)data[at + 2] << 8, where = data[at + 3] | (unsigned)data[at + 4] << 8, with = data[at + 5];
        fuzz_tensor   *t = &x[which % n];
        size_t         k, count;
        switch (data[at] % 9) {
        case 0:
            if (t->count > 0) {
                t->values[where % t->count] = with & 16 ? hostile[0] - hostile[0] : hostile[with & 15];
            }
            break;
        case 1:
            for (k = 0; k < t->count; k++) {
                t->values[k] = where & 1 ? hostile[with & 15] : t->values[k] * hostile[with & 15];
            }
            break;
        case 2:  /* another size */
            if (t->n_dims > 0) {
                uint64_t *s = &t->shape[where % t->n_dims], old = *s;
                float    *v;
                *s    = with & 16 ? old + (with & 15) - 8 : sizes[with & 15];
                count = fuzz_product(t->shape, t->n_dims);
                if (*s > 1u << 20 || count >= 1u << 20) {
                    *s = old;
                    break;
                }
                v = (float *)calloc(count + 1, sizeof *v);
                FUZZ_ASSERT(v != NULL);
                memcpy(v, t->values, MAILP_MIN(count, t->count) * sizeof *v);
                free(t->values);
                t->values = v;
                t->count  = count;
            }
            break;
        case 3:  /* one tensor less */
            if (n > 1) {
                free(t->values);
                *t = x[--n];
            }
            break;
        case 4:
            t->name[where % strlen(t->name)] = (char)('a' + with % 26);
            break;
        case 5: t->dtype = with % MAIL_DTYPE_COUNT; break;
        case 6: json[(which + where) % base->json_size] = (char)with; break;
        case 7:  /* one more */
            x[n]        = *t;
            x[n].values = (float *)malloc(t->count * sizeof(float) + 1);
            FUZZ_ASSERT(x[n].values != NULL);
            memcpy(x[n].values, t->values, t->count * sizeof(float));
            x[n].name[where % strlen(t->name)] = (char)('0' + with % 10);
            n++;
            break;
        default:  /* dimensions joined or split */
            if (t->n_dims > 1 && with & 1) {
                t->shape[t->n_dims - 2] *= t->shape[t->n_dims - 1];
                t->n_dims--;
            } else if (t->n_dims < MAIL_MAX_DIMS) {
                t->shape[t->n_dims++] = 1;
            }
        }
    }
    file = fuzz_write(&file_size, x, n);
    for (i = 0; i < n; i++) {
        free(x[i].values);
    }
    fuzz_live = fuzz_peak = 0;
    o = mail_options_init();
    o.config_json     = json;
    o.config_size     = base->json_size;
    o.allocator.alloc = fuzz_alloc;
    o.allocator.free  = fuzz_free;
    memset(&err, 0, sizeof err);
    status = mail_policy_load_memory(&policy, file, file_size, &o, &err);
    if (status == MAIL_OK) {
        fuzz_act(policy);
        mail_policy_free(policy);
    } else {
        FUZZ_ASSERT(policy == NULL && err.code == status && err.text[0] != 0);
    }
    FUZZ_ASSERT(fuzz_live == 0);
    free(file);
    free(json);
    return 0;
}
