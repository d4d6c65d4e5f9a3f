/* Small policies for the tests: the weights of a golden case with the case's own config.json, and made-up observations.
   Include mail.h and test.h before this. */
#ifndef SMALL_H
#define SMALL_H

#define SMALL_CASES "tests/golden/cases/"

/* One of each architecture, algorithm and language, then what is special about the others. */
static const char *const small_each[] = {
    "d_ma_ddpm_h5",  "d_ma_ddpm_lang_h5",  "d_ma_bc_h5",  "d_ma_bc_lang_h5",  "d_tr_ddpm_h5",  "d_tr_ddpm_lang_h5",
    "d_tr_bc_h5",    "d_tr_bc_lang_h5",    "ed_ma_ddpm_h5", "ed_ma_ddpm_lang_h5", "ed_ma_bc_h5", "ed_ma_bc_lang_h5",
    "ed_tr_ddpm_h5", "ed_tr_ddpm_lang_h5", "ed_tr_bc_h5", "ed_tr_bc_lang_h5",
};
#define SMALL_EACH (sizeof small_each / sizeof small_each[0])

/* Whole file as text with a NUL after it, or NULL; to be released with free. */
static char *small_text(const char *path) {
    FILE  *f = fopen(path, "rb");
    char  *text = NULL;
    long   size;
    if (f == NULL) {
        return NULL;
    }
    if (fseek(f, 0, SEEK_END) == 0 && (size = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0) {
        text = (char *)malloc((size_t)size + 1);
        if (text != NULL) {
            text[fread(text, 1, (size_t)size, f)] = '\0';
        }
    }
    (void)fclose(f);
    return text;
}

static mail_status small_load_with(mail_policy **policy, const char *name, const mail_options *options, mail_error *err) {
    char         path[256];
    mail_options o = options == NULL ? mail_options_init() : *options;
    mail_status  status;
    FILE        *f;
    char        *json;
    (void)snprintf(path, sizeof path, SMALL_CASES "%s/config.json", name);
    json = small_text(path);
    *policy = NULL;
    if (json == NULL) {
        printf("%s cannot be read; the tests run in the folder of mail.h\n", path);
        exit(2);
    }
    o.config_json = json;
    (void)snprintf(path, sizeof path, SMALL_CASES "%s/model.safetensors", name);
    f = fopen(path, "rb");
    if (f != NULL) {
        (void)fclose(f);
    } else {
        (void)snprintf(path, sizeof path, SMALL_CASES "%s/model.pth", name);
    }
    status = mail_policy_load(policy, path, &o, err);
    free(json);
    return status;
}

/* The policy of a golden case, or the end of the test. */
static mail_policy *small_load(const char *name) {
    mail_policy *policy;
    mail_error   err;
    if (small_load_with(&policy, name, NULL, &err) != MAIL_OK) {
        printf("%s: %s\n", name, err.text);
        exit(2);
    }
    return policy;
}

static mail_session *small_session(const mail_policy *policy, const mail_session_options *options) {
    mail_session *session;
    mail_error    err;
    if (mail_session_create(&session, policy, options, &err) != MAIL_OK) {
        printf("session: %s\n", err.text);
        exit(2);
    }
    return session;
}

/* The model of a case as a float32 safetensors file in memory, changed; released with free.
   reshape   may change a tensor's shape, or NULL: there is then as much of the old values as fits, and zeros
   refill    may change its n values */
static unsigned char *small_remade(size_t *size, const char *name, void (*reshape)(void *user, const char *tensor, uint64_t *shape, unsigned n_dims),
                                   void (*refill)(void *user, const char *tensor, float *values, size_t n), void *user) {
    mail_tensors  *t;
    mail_error     err;
    char           path[256], *header = (char *)malloc(1 << 16), *at = header;
    size_t         i, j, n, offset = 0;
    unsigned char *data = NULL, *file;
    (void)snprintf(path, sizeof path, SMALL_CASES "%s/model.safetensors", name);
    if (header == NULL || mail_tensors_open(&t, path, NULL, &err) != MAIL_OK) {
        printf("%s cannot be read\n", path);
        exit(2);
    }
    *at++ = '{';
    for (i = 0; i < mail_tensors_count(t); i++) {
        const mail_tensor *tensor = mail_tensors_at(t, i);
        const size_t       had = (size_t)tensor->count;
        uint64_t           shape[MAIL_MAX_DIMS];
        size_t             count = 1;
        float             *values;
        memcpy(shape, tensor->shape, sizeof shape);
        if (reshape != NULL) {
            reshape(user, tensor->name, shape, tensor->n_dims);
        }
        at += sprintf(at, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "", tensor->name);
        for (j = 0; j < tensor->n_dims; j++) {
            count *= (size_t)shape[j];
            at += sprintf(at, "%s%lu", j ? "," : "", (unsigned long)shape[j]);
        }
        at += sprintf(at, "],\"data_offsets\":[%lu,%lu]}", (unsigned long)offset, (unsigned long)(offset + count * 4));
        values = (float *)calloc((count > had ? count : had) + 1, sizeof *values);
        data   = (unsigned char *)realloc(data, offset + count * 4 + 1);
        if (values == NULL || data == NULL || mail_tensor_read(tensor, values, had, NULL) != MAIL_OK) {
            exit(2);
        }
        refill(user, tensor->name, values, count);
        for (j = 0; j < count; j++, offset += 4) {
            uint32_t bits;
            memcpy(&bits, &values[j], sizeof bits);
            data[offset]     = (unsigned char)(bits & 0xff);
            data[offset + 1] = (unsigned char)(bits >> 8 & 0xff);
            data[offset + 2] = (unsigned char)(bits >> 16 & 0xff);
            data[offset + 3] = (unsigned char)(bits >> 24);
        }
        free(values);
    }
    mail_tensors_close(t);
    *at++ = '}';
    while ((at - header) % 8 != 0) {
        *at++ = ' ';
    }
    n     = (size_t)(at - header);
    *size = 8 + n + offset;
    file  = (unsigned char *)malloc(*size);
    if (file == NULL) {
        exit(2);
    }
    for (i = 0; i < 8; i++) {
        file[i] = (unsigned char)((unsigned long long)n >> 8 * i & 0xff);
    }
    memcpy(file + 8, header, n);
    memcpy(file + 8 + n, data, offset);
    free(header);
    free(data);
    return file;
}

/* n made-up numbers, the same for the same arguments */
static void small_fill(float *x, size_t n, unsigned what, unsigned which) {
    size_t             i;
    unsigned long long z = (unsigned long long)what * 1000003u + which;
    for (i = 0; i < n; i++) {
        z = z * 6364136223846793005ull + 1442695040888963407ull;
        x[i] = (float)((double)(z >> 11) / 9007199254740992.0 * 2.0 - 1.0);
    }
}

/* Frame number t of robot r: features of the policy's width */
static void small_frame(const mail_policy *policy, float *features, unsigned robot, unsigned t) {
    small_fill(features, mail_policy_info(policy)->state_dim, 100 + robot, t);
}

/* Frame t of the robots first, first + 1, ... to a session of n robots. */
static mail_status small_observe(mail_session *session, const mail_policy *policy, size_t n, unsigned first, unsigned t, mail_error *err) {
    const size_t S = mail_policy_info(policy)->state_dim;
    float       *features = (float *)malloc(n * S * sizeof(float));
    mail_status  status;
    size_t       i;
    if (features == NULL) {
        exit(2);
    }
    for (i = 0; i < n; i++) {
        small_frame(policy, features + i * S, first + (unsigned)i, t);
    }
    status = mail_observe_features(session, features, n * S, err);
    free(features);
    return status;
}

/* A made-up goal for every robot, if the policy wants one. */
static void small_goal(mail_session *session, const mail_policy *policy, unsigned which) {
    const size_t n = mail_policy_info(policy)->lang_dim;
    float        goal[1024];
    if (n != 0) {
        small_fill(goal, n, 7, which);
        if (mail_session_set_goal(session, goal, n, NULL) != MAIL_OK) {
            printf("goal refused\n");
            exit(2);
        }
    }
}

/* The names are used by some tests only. */
static void small_unused(void) {
    (void)small_each;
    (void)small_remade;
    (void)small_load;
    (void)small_session;
    (void)small_observe;
    (void)small_goal;
    (void)small_unused;
}

#endif
