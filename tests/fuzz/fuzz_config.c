/* The first byte chooses a checkpoint, the rest is the JSON configuration; up to the first NUL it is JSON text, and what follows
   is used as the values of some metadata. */
#include "fuzz.h"

#include "../small_checkpoint.h"

#define CONFIG_HEAD "{\"__metadata__\":{"  /* how the header of a checkpoint made by small_checkpoint.h begins */

static model the_model;

/* The which-th checkpoint, made once: libFuzzer calls the target millions of times. */
static const unsigned char *config_file(unsigned which, size_t *size) {
    static unsigned char *files[32];
    static size_t         sizes[32];
    if (files[which] == NULL) {
        spec s;
        memset(&s, 0, sizeof s);
        s.arch    = (int)(which & 3);
        s.algo    = (int)(which >> 2 & 1);
        s.lang    = (int)(which >> 3 & 1);
        s.cameras = which >> 4 ? 2 : 0;
        s.obs_seq = 4;
        s.act_seq = 3;
        make(&the_model, &s);
        files[which] = the_model.file;
        sizes[which] = the_model.size;
        FUZZ_ASSERT(memcmp(the_model.file + 8, CONFIG_HEAD, sizeof CONFIG_HEAD - 1) == 0);
    }
    *size = sizes[which];
    return files[which];
}

/* The same file with these members in its __metadata__. */
static unsigned char *config_file_with(unsigned which, const char *meta, size_t *size) {
    const size_t         n = strlen(meta), head = 8 + sizeof CONFIG_HEAD - 1;
    const unsigned char *base = config_file(which, size);
    unsigned char       *file = (unsigned char *)malloc(*size + n);
    uint64_t             header = mailp_le64(base) + n;
    size_t               i;
    FUZZ_ASSERT(file != NULL);
    for (i = 0; i < 8; i++) {
        file[i] = (unsigned char)(header >> 8 * i & 255);
    }
    memcpy(file + 8, base + 8, head - 8);
    memcpy(file + head, meta, n);
    memcpy(file + head + n, base + head, *size - head);
    *size += n;
    return file;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mail_tensors *tensors[32];
    mailp_config         cfg;
    mail_error           err;
    mail_status          status;
    char                *json;
    size_t               n;
    unsigned             which;
    if (size < 1) {
        return 0;
    }
    which = data[0] & 31u;
    if (tensors[which] == NULL) {
        const unsigned char *file = config_file(which, &n);
        FUZZ_ASSERT(mail_tensors_open_memory(&tensors[which], file, n, NULL, &err) == MAIL_OK);
    }
    for (n = 0; n < size - 1 && data[1 + n] != 0; n++) {
    }
    json = (char *)malloc(n + 1);  /* no NUL behind it */
    if (json == NULL) {
        return 0;
    }
    memcpy(json, data + 1, n);
    memset(&err, 0, sizeof err);
    status = mailp_config_read(&cfg, tensors[which], json, n, "the JSON configuration", &err);
    if (status) {
        FUZZ_ASSERT(err.code == status && err.text[0] != 0);
    } else {
        size_t i;
        FUZZ_ASSERT(cfg.obs_seq >= 1 && cfg.act_seq >= 1 && cfg.obs_seq + cfg.act_seq == 7);  /* what the shapes say */
        FUZZ_ASSERT(cfg.n_action_steps >= 1 && cfg.n_action_steps <= cfg.act_seq);
        FUZZ_ASSERT((int)cfg.arch == (int)(which & 3) && cfg.n_timesteps <= MAIL_MAX_TIMESTEPS && cfg.diffusion_x <= MAIL_MAX_TIMESTEPS);
        for (i = 0; i < cfg.action_dim; i++) {
            FUZZ_ASSERT(cfg.mean[i] - cfg.mean[i] == 0 && cfg.std[i] >= 0 && cfg.min[i] <= cfg.max[i]);
        }
    }
    free(json);
    if (n < size - 1) {  /* metadata, through the escape-free subset of bytes */
        static const char *const keys[] = { "n_heads", "scaler.mean", "cameras", "schedule", "action_names", "description" };
        char   meta[2048], value[256];
        size_t i, k = 0, used = 0;
        mail_tensors  *t;
        unsigned char *file;
        const uint8_t *p = data + 2 + n;
        for (i = 0; i < sizeof value - 1 && i + 2 + n < size; i++) {
            value[i] = (char)p[i];
            if (p[i] < 0x20 || p[i] > 0x7e || p[i] == '\\') {
                value[i] = ' ';
            }
        }
        value[i] = 0;
        for (k = 0; k < 6; k++) {
            used += (size_t)snprintf(meta + used, sizeof meta - used, "%s\"mail.%s\":\"", k == 0 ? "" : ",", keys[k]);
            for (i = 0; value[i] != 0 && used < 340 * (k + 1); i++) {
                if (value[i] == '"') {
                    meta[used++] = '\\';
                }
                meta[used++] = value[i];
            }
            meta[used++] = '"';
            meta[used]   = 0;
        }
        file = config_file_with(which, meta, &k);
        if (mail_tensors_open_memory(&t, file, k, NULL, &err) == MAIL_OK) {
            (void)mailp_config_read(&cfg, t, NULL, 0, "the JSON configuration", &err);
            mail_tensors_close(t);
        }
        free(file);
    }
    return 0;
}
