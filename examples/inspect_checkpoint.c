/* What is in a checkpoint: names, types and shapes of its tensors, what they say of the policy, and what is still missing.

       cc -O2 -I. examples/inspect_checkpoint.c -o inspect_checkpoint -lm
       ./inspect_checkpoint policy.safetensors
       ./inspect_checkpoint last_ddpm.pth settings.json

   Next: convert_checkpoint.c makes one file of a checkpoint and its settings. */
#define MAIL_IMPLEMENTATION
#include "mail.h"

static void print_tensors(const mail_tensors *tensors) {
    size_t   i;
    uint64_t elements = 0;
    for (i = 0; i < mail_tensors_count(tensors); i++) {
        const mail_tensor *x = mail_tensors_at(tensors, i);
        unsigned           d;
        printf("  %-4s [", mail_dtype_name(x->dtype));
        for (d = 0; d < x->n_dims; d++) {
            printf("%s%llu", d == 0 ? "" : ", ", (unsigned long long)x->shape[d]);
        }
        printf("]  %s\n", x->name);
        elements += x->count;
    }
    printf("%lu tensors, %llu elements (a tensor with two names counts twice)\n\n", (unsigned long)mail_tensors_count(tensors),
           (unsigned long long)elements);
}

static void print_floats(const char *what, const float *values, size_t n) {
    size_t i;
    printf("  %-14s", what);
    for (i = 0; i < n; i++) {
        if (fabsf(values[i]) < FLT_MAX) {
            printf(" %.6g", (double)values[i]);
        } else {
            printf(" ?");  /* not known, and not needed by this policy */
        }
    }
    printf("\n");
}

static void print_system(const char *arch_name, mail_algorithm algorithm, int lang) {
    printf("%s, %s, %s language\n", arch_name, algorithm == MAIL_DDPM ? "diffusion" : "behaviour cloning", lang ? "with" : "without");
}

static void print_policy(const mail_info *info) {
    static const char *const schedules[] = { "cosine", "linear", "vp" };
    size_t i;
    print_system(info->arch_name, info->algorithm, info->has_lang);
    printf("  history        %lu frame(s)\n", (unsigned long)info->obs_seq);
    printf("  chunk          %lu action(s), %lu of them executed before the next decision\n", (unsigned long)info->act_seq,
           (unsigned long)info->n_action_steps);
    printf("  d_model        %lu\n", (unsigned long)info->d_model);
    if (info->n_timesteps > 0) {
        printf("  denoising      %lu steps, %s schedule\n", (unsigned long)info->n_timesteps, schedules[info->schedule]);
    }
    for (i = 0; i < info->n_cameras; i++) {
        printf("  camera         %s, %lu x %lu pixels\n", info->cameras[i].name, (unsigned long)info->cameras[i].width,
               (unsigned long)info->cameras[i].height);
    }
    if (info->n_cameras == 0) {
        printf("  no cameras     the policy takes %lu features\n", (unsigned long)info->state_dim);
    }
    print_floats("action mean", info->action_mean, info->action_dim);
    print_floats("action std", info->action_std, info->action_dim);
    print_floats("action min", info->action_min, info->action_dim);
    print_floats("action max", info->action_max, info->action_dim);
    printf("  parameters     %lu\n", (unsigned long)info->n_parameters);
    if (info->description != NULL) {
        printf("  %s\n", info->description);
    }
}

/* "name": [?, ?, ...], n of them. */
static void print_unknown(const char *before, const char *name, size_t n) {
    printf("%s\"%s\": [?", before, name);
    while (n-- > 1) {
        printf(", ?");
    }
    printf("]");
}

/* What the shapes give of a policy that lacks settings, and the JSON to fill in. Here private functions of mail.h are of use. */
static void print_shapes(const mail_tensors *tensors) {
    static mailp_config      c;
    mailp_config_reader      r;
    size_t                   i, total;
    int                      ddpm;
    memset(&r, 0, sizeof r);
    r.cfg = &c;
    r.t   = tensors;
    mailp_config_shapes(&r);
    if (r.status) {
        return;
    }
    ddpm  = c.algorithm == MAIL_DDPM;
    total = c.pos_rows + 1 - (size_t)c.lang;
    printf("From the shapes: ");
    print_system(mailp_arch_names[c.arch], c.algorithm, c.lang);
    printf("  action_dim     %lu\n  d_model        %lu\n", (unsigned long)c.action_dim, (unsigned long)c.d_model);
    for (i = 0; i < c.n_trunks; i++) {
        printf("  %-14s %lu layers\n", c.trunk[i].name, (unsigned long)c.trunk[i].n_layers);
    }
    if (c.act_seq > 0) {
        printf("  act_seq        %lu\n  obs_seq        %lu\n", (unsigned long)c.act_seq, (unsigned long)(total - c.act_seq));
    } else {
        printf("  obs_seq        ?  together with act_seq %lu\n", (unsigned long)total);
    }
    for (i = 0; i < c.n_cameras; i++) {
        const mailp_camera_config *camera = &c.camera[i];
        printf("  camera         %s, height %lu to %lu, width %lu to %lu\n", camera->name, (unsigned long)(32 * camera->map_height - 31),
               (unsigned long)(32 * camera->map_height), (unsigned long)(32 * camera->map_width - 31), (unsigned long)(32 * camera->map_width));
    }
    printf("\nWhat is left goes into a JSON file beside the checkpoint (same name with .json, or config.json), a value for each ?:\n\n{ ");
    if (c.act_seq == 0) {
        printf("\"obs_seq\": ?, \"act_seq\": ?, ");
    }
    if (!mailp_is_mamba(&c)) {
        printf("\"n_heads\": ?, ");
    }
    if (ddpm) {
        printf("\"n_timesteps\": ?, \"schedule\": \"?\", \"clip_denoised\": ?, \"predict_epsilon\": ?,\n  ");
    }
    for (i = 0; i < c.n_cameras; i++) {
        printf("%s\"%s\": [?, ?]%s", i == 0 ? "\"cameras\": { " : ", ", c.camera[i].name, i + 1 == c.n_cameras ? " },\n  " : "");
    }
    printf("\"scale_data\": ?,\n  \"scaler\": {");
    print_unknown(" ", "mean", c.action_dim);
    print_unknown(", ", "std", c.action_dim);
    if (ddpm) {
        print_unknown(",\n              ", "min", c.action_dim);
        print_unknown(", ", "max", c.action_dim);
    }
    printf(" } }\n\nscaler: of the training's actions%s%s.\nMay be left out: n_action_steps (then act_seq)%s.\n",
           c.n_cameras > 0 ? "; a camera: [height, width] of its pictures" : "", ddpm ? "; schedule: cosine, linear or vp" : "",
           ddpm ? ", diffusion_x (then 0)" : "");
}

int main(int argc, char **argv) {
    mail_tensors *tensors;
    mail_policy  *policy;
    mail_options  options = mail_options_init();
    mail_error    err;
    mail_status   status;
    static char   json[1 << 20];
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: %s CHECKPOINT [SETTINGS.json]\n", argv[0]);
        return 2;
    }
    if (mail_tensors_open(&tensors, argv[1], NULL, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    print_tensors(tensors);
    if (argc == 3) {
        FILE *f = fopen(argv[2], "rb");
        options.config_size = f == NULL ? 0 : fread(json, 1, sizeof json, f);
        options.config_json = json;
        if (options.config_size == 0 || options.config_size == sizeof json) {
            fprintf(stderr, "%s: expected a file of 1 byte to 1 MiB\n", argv[2]);
            return 1;
        }
        fclose(f);
    }
    status = mail_policy_load(&policy, argv[1], &options, &err);
    if (status == MAIL_E_CONFIG) {
        printf("Not ready to act: %s\n", err.text);
        if (argc == 3) {
            printf("(options->config_json: %s)\n", argv[2]);
        }
        printf("\n");
        print_shapes(tensors);
    } else if (status) {
        printf("No policy: %s\n", err.text);
    } else {
        print_policy(mail_policy_info(policy));
        mail_policy_free(policy);
    }
    mail_tensors_close(tensors);
    return status != MAIL_OK;
}
