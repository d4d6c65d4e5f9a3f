/* from_memory: a checkpoint that is already in memory (linked into the program, received, or mapped), and no files:
   the library is built with MAIL_NO_STDIO.

       cc -O2 -I.. from_memory.c -o from_memory -lm
       ./from_memory < policy.safetensors           (or: policy.pth, and its JSON file as argument)

   Next: inspect_checkpoint.c shows what is in a file. */
#define MAIL_NO_STDIO
#define MAIL_IMPLEMENTATION
#include "mail.h"

#include <stdio.h>

/* all of a stream; *size bytes with a NUL after them */
static char *slurp(FILE *f, size_t *size) {
    char  *data = NULL, *more;
    size_t room = 0;
    *size = 0;
    do {
        room = room * 2 + 65536;
        more = (char *)realloc(data, room + 1);
        if (more == NULL) {
            free(data);
            return NULL;
        }
        data = more;
        *size += fread(data + *size, 1, room - *size, f);
    } while (*size == room);
    data[*size] = '\0';
    return data;
}

int main(int argc, char **argv) {
    mail_options     options = mail_options_init();
    mail_policy     *policy;
    mail_error       err;
    const mail_info *info;
    size_t           size, json_size;
    char            *data = slurp(stdin, &size), *json = NULL;
    if (argc > 1) {
        FILE *f = fopen(argv[1], "rb");
        json = f == NULL ? NULL : slurp(f, &json_size);
        if (json == NULL) {
            fprintf(stderr, "from_memory: %s cannot be read\n", argv[1]);
            return 1;
        }
        (void)fclose(f);
        options.config_json = json;
        options.config_size = json_size;
    }
    if (data == NULL || mail_policy_load_memory(&policy, data, size, &options, &err) != MAIL_OK) {
        fprintf(stderr, "from_memory: %s\n", data == NULL ? "out of memory" : err.text);
        return 1;
    }
    info = mail_policy_info(policy);
    printf("%s: %lu parameters, %.1f MB of packed weights, %.1f MB per session\n", info->arch_name, (unsigned long)info->n_parameters,
           (double)info->weight_bytes / 1e6, (double)mail_session_size(policy, NULL) / 1e6);
    mail_policy_free(policy);
    free(json);
    free(data);  /* after the policy: it looks into this memory until it is freed */
    return 0;
}
