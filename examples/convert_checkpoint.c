/* One self-contained .safetensors file from a checkpoint and what it does not say itself.

       cc -O2 -I. examples/convert_checkpoint.c -o convert_checkpoint -lm
       ./convert_checkpoint last_ddpm.pth policy.safetensors settings.json [scaler.pth] [--bf16]

   settings.json   {"obs_seq": 5, "n_timesteps": 16, "schedule": "cosine", ...}; inspect_checkpoint says what is needed
   scaler.pth      the action statistics, if they are not in the JSON: in Python, from the training set's actions [n, dim],
                       torch.save({"mean": a.mean(0), "std": a.std(0, unbiased=False), "min": a.min(0).values,
                                   "max": a.max(0).values}, "scaler.pth")
   --bf16          large weights in bf16: half the size

   Next: hello_policy.c acts with the file that this one writes. */
#define MAIL_IMPLEMENTATION
#include "mail.h"

/* Text that grows in a fixed buffer; full: it did not fit. */
typedef struct {
    char   text[1 << 20];
    size_t n;
    int    full;
} text_buffer;

static void add(text_buffer *b, const char *text, size_t n) {
    if (n >= sizeof b->text - b->n) {
        b->full = 1;
    } else {
        memcpy(b->text + b->n, text, n);
        b->n += n;
    }
}

/* "scaler": {"mean": [..], ...} from a file with four small tensors. Returns 0 and prints why if that fails. */
static int add_scaler(text_buffer *b, const char *path) {
    static const char *const names[] = { "mean", "std", "min", "max" };
    mail_tensors *tensors;
    mail_error    err;
    float         values[MAIL_MAX_ACTION_DIM];
    char          number[32];
    size_t        i, k, found = 0;
    if (mail_tensors_open(&tensors, path, NULL, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 0;
    }
    add(b, "\"scaler\":{", 10);
    for (k = 0; k < 4; k++) {
        const mail_tensor *x = mail_tensors_find(tensors, names[k]);
        if (x == NULL) {
            continue;
        }
        if (x->count > MAIL_MAX_ACTION_DIM || mail_tensor_read(x, values, (size_t)x->count, &err)) {
            fprintf(stderr, "%s: '%s' has %llu numbers, at most %d are possible\n", path, names[k], (unsigned long long)x->count, MAIL_MAX_ACTION_DIM);
            mail_tensors_close(tensors);
            return 0;
        }
        add(b, found == 0 ? "\"" : ",\"", found == 0 ? 1 : 2);
        found++;
        add(b, names[k], strlen(names[k]));
        add(b, "\":[", 3);
        for (i = 0; i < (size_t)x->count; i++) {
            int n = snprintf(number, sizeof number, "%s%.9g", i == 0 ? "" : ",", (double)values[i]);
            add(b, number, (size_t)n);
        }
        add(b, "]", 1);
    }
    add(b, "}", 1);
    mail_tensors_close(tensors);
    if (found == 0) {
        fprintf(stderr, "%s: there is no tensor called mean, std, min or max in it\n", path);
    }
    return found > 0;
}

/* The JSON file's text, and the scaler as its first member. */
static int read_settings(text_buffer *b, const char *path, const char *scaler) {
    static char file[1 << 20];
    FILE  *f = fopen(path, "rb");
    size_t n = f == NULL ? 0 : fread(file, 1, sizeof file, f), at = 0;
    if (f != NULL) {
        fclose(f);
    }
    while (at < n && strchr(" \t\r\n", file[at]) != NULL) {
        at++;
    }
    if (n == 0 || n == sizeof file || file[at] != '{') {
        fprintf(stderr, "%s: expected a JSON object of at most 1 MiB\n", path);
        return 0;
    }
    add(b, "{", 1);
    if (scaler != NULL) {
        size_t next = at + 1;
        if (!add_scaler(b, scaler)) {
            return 0;
        }
        while (next < n && strchr(" \t\r\n", file[next]) != NULL) {
            next++;
        }
        add(b, ",", next < n && file[next] != '}' ? 1 : 0);
    }
    add(b, file + at + 1, n - at - 1);
    if (b->full) {
        fprintf(stderr, "%s: the settings are too long\n", path);
    }
    return !b->full;
}

int main(int argc, char **argv) {
    static text_buffer settings;
    const char        *name[4] = { NULL, NULL, NULL, NULL };  /* checkpoint, output, JSON, scaler */
    mail_policy       *policy;
    mail_options       options = mail_options_init();
    mail_dtype         dtype = MAIL_F32;
    mail_error         err;
    int                i, n = 0;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bf16") == 0) {
            dtype = MAIL_BF16;
        } else if (n < 4 && argv[i][0] != '-') {
            name[n++] = argv[i];
        } else {
            n = 0;
            break;
        }
    }
    if (n < 2) {
        fprintf(stderr, "usage: %s CHECKPOINT OUTPUT.safetensors [SETTINGS.json [SCALER.pth]] [--bf16]\n", argv[0]);
        return 2;
    }
    if (name[2] != NULL) {
        if (!read_settings(&settings, name[2], name[3])) {
            return 1;
        }
        options.config_json = settings.text;
        options.config_size = settings.n;
    }
    if (mail_policy_load(&policy, name[0], &options, &err) || mail_policy_save(policy, name[1], dtype, &err)) {
        fprintf(stderr, "%s\n", err.text);
        if (name[2] != NULL && err.code == MAIL_E_CONFIG) {
            fprintf(stderr, "(options->config_json: %s)\n", name[2]);
        }
        return 1;
    }
    mail_policy_free(policy);
    if (mail_policy_load(&policy, name[1], NULL, &err)) {  /* what was written acts alone */
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("%s: %s, %lu parameters, %s\n", name[1], mail_policy_info(policy)->arch_name, (unsigned long)mail_policy_info(policy)->n_parameters,
           mail_dtype_name(dtype));
    mail_policy_free(policy);
    return 0;
}
