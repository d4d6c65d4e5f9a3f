/* Configuration: what shapes say, what JSON and metadata say, contradictions; and files written by mail_policy_save's inner
   function.    cc -O2 -I. -Itests tests/test_config.c -lm      Writes into the folder build (or the one given). */
#define MAIL_IMPLEMENTATION
#include "mail.h"
#include "small_checkpoint.h"
#include "test.h"

#include <locale.h>

static const char *out_folder = "build";

static model the_model;

/* Build, open, read the configuration with this JSON text (NULL: none); the tensors are left open in *t if that is given. */
static mail_status configure(mailp_config *cfg, const spec *s, const char *json, mail_error *err, mail_tensors **t) {
    mail_tensors *mine = NULL;
    mail_status   status;
    char         *copy = NULL;
    memset(err, 0, sizeof *err);
    make(&the_model, s);
    status = mail_tensors_open_memory(&mine, the_model.file, the_model.size, NULL, err);
    if (status) {
        CHECK_MSG(0, "%s", err->text);
        free(the_model.file);
        return status;
    }
    if (json != NULL) {
        copy = (char *)malloc(strlen(json) + 1);
        memcpy(copy, json, strlen(json));
    }
    status = mailp_config_read(cfg, mine, copy, json == NULL ? 0 : strlen(json), "the JSON configuration", err);
    free(copy);
    if (t != NULL && status == MAIL_OK) {
        *t = mine;
        return status;
    }
    mail_tensors_close(mine);
    free(the_model.file);
    return status;
}

static spec spec_of(int arch, int algo, int lang) {
    spec s;
    memset(&s, 0, sizeof s);
    s.arch    = arch;
    s.algo    = algo;
    s.lang    = lang;
    s.obs_seq = 4;
    s.act_seq = 3;
    return s;
}

#define SCALER "\"scaler\":{\"mean\":[0.5,-1],\"std\":[1,0.25],\"min\":[-1,-1.5],\"max\":[2,1]}"
#define DDPM   "\"n_timesteps\":16,\"schedule\":\"vp\",\"clip_denoised\":true,\"predict_epsilon\":false"
#define ALL    "{\"obs_seq\":4,\"n_heads\":2,\"scale_data\":true," DDPM "," SCALER "}"

/* ---- every system ------------------------------------------------------------------------------------------------------ */

static void test_systems(void) {
    mail_error   err;
    mailp_config cfg;
    int          arch, algo, lang;
    for (arch = 0; arch < 4; arch++) {
        for (algo = 0; algo < 2; algo++) {
            for (lang = 0; lang < 2; lang++) {
                spec s = spec_of(arch, algo, lang);
                int  mamba = arch == MAIL_D_MA || arch == MAIL_ED_MA, two = arch == MAIL_ED_MA || arch == MAIL_ED_TR;
                int  split = algo == MAIL_BC || arch == MAIL_ED_MA;  /* obs_seq and act_seq follow from the shapes */
                CHECK_MSG(configure(&cfg, &s, ALL, &err, NULL) == MAIL_OK, "%d %d %d: %s", arch, algo, lang, err.text);
                CHECK((int)cfg.arch == arch && (int)cfg.algorithm == algo && cfg.lang == lang);
                CHECK(cfg.obs_seq == 4 && cfg.act_seq == 3 && cfg.n_action_steps == 3 && cfg.pos_rows == 6 + (size_t)lang);
                CHECK(cfg.action_dim == ACTION_DIM && cfg.state_dim == 4 && cfg.d_model == D_MODEL && cfg.lang_dim == (lang ? LANG_DIM : 0));
                CHECK(cfg.n_trunks == (two ? 2u : 1u) && cfg.trunk[0].n_layers == 2 && (!two || cfg.trunk[1].n_layers == 3));
                CHECK(strcmp(cfg.trunk[0].name, two ? "encoder" : mamba && algo == MAIL_DDPM ? "mamba" : "encoder") == 0);
                CHECK(!two || strcmp(cfg.trunk[1].name, mamba && algo == MAIL_DDPM ? "mamba" : "decoder") == 0);
                CHECK(!mamba || (cfg.trunk[0].d_state == D_STATE && cfg.trunk[0].d_conv == D_CONV && cfg.trunk[0].d_inner == D_INNER &&
                                 cfg.trunk[0].dt_rank == DT_RANK));
                CHECK(cfg.n_heads == (mamba ? 0u : 2u) && cfg.n_cameras == 0);
                CHECK(cfg.n_timesteps == (algo == MAIL_BC ? 0u : 16u));
                CHECK(algo == MAIL_BC || (cfg.schedule == MAIL_VP && cfg.clip_denoised == 1 && cfg.predict_epsilon == 0 && cfg.diffusion_x == 0));
                CHECK(cfg.scale_data == 1 && cfg.mean[0] == 0.5f && cfg.mean[1] == -1 && cfg.std[1] == 0.25f && cfg.min[1] == -1.5f && cfg.max[0] == 2);
                CHECK(!cfg.has_action_names && cfg.description[0] == 0);

                CHECK(configure(&cfg, &s, "{}", &err, NULL) == MAIL_E_CONFIG);
                CHECK_MSG((strstr(err.text, "obs_seq or act_seq (their sum is 7)") != NULL) == !split, "%s", err.text);
                CHECK((strstr(err.text, "n_heads") != NULL) == !mamba && strstr(err.text, "scale_data") != NULL);
                CHECK((strstr(err.text, "n_timesteps, schedule, clip_denoised, predict_epsilon") != NULL) == (algo == MAIL_DDPM));
                CHECK(strstr(err.text, "scaler.mean, scaler.std") != NULL && (strstr(err.text, "scaler.max") != NULL) == (algo == MAIL_DDPM));
                CHECK(configure(&cfg, &s, NULL, &err, NULL) == MAIL_E_CONFIG);
            }
        }
    }
}

/* ---- what was said wrongly --------------------------------------------------------------------------------------------- */

static void test_settings(void) {
    static const struct {
        int         arch, algo;
        const char *json, *metadata;
        mail_status status;
        const char *text;
    } cases[] = {
#define REST "\"n_heads\":2,\"scale_data\":true," DDPM "," SCALER
        { MAIL_D_MA, MAIL_DDPM, "{\"act_seq\":3," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"act_seq\":3,\"obs_seq\":4," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"act_seq\":3,\"obs_seq\":5," REST "}", NULL, MAIL_E_CONFIG, "obs_seq and act_seq: 5 in the JSON configuration and 3 in the JSON configuration, but by the tensors' shapes their sum is 7" },
        { MAIL_D_MA, MAIL_DDPM, "{\"act_seq\":1,\"obs_seq\":4," REST "}", NULL, MAIL_E_CONFIG, "and 1 in the JSON configuration, but by the tensors' shapes their sum is 7" },
        { MAIL_D_MA, MAIL_DDPM, "{\"act_seq\":7," REST "}", NULL, MAIL_E_CONFIG, "act_seq: expected 1 to 6, found 7" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":7," REST "}", NULL, MAIL_E_CONFIG, "obs_seq: expected 1 to 6, found 7" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":0," REST "}", NULL, MAIL_E_CONFIG, "obs_seq: expected 1 to 6, found 0" },
        { MAIL_ED_MA, MAIL_DDPM, "{\"act_seq\":4," REST "}", NULL, MAIL_E_CONFIG, "act_seq: 4 in the JSON configuration, but 3 in the tensors' shapes" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"n_action_steps\":2," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"n_action_steps\":4," REST "}", NULL, MAIL_E_CONFIG, "n_action_steps: expected 1 to 3, found 4" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"chunk\":0," REST "}", NULL, MAIL_OK, "" },  /* not a setting, and like none */
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"n_action_step\":1," REST "}", NULL, MAIL_E_CONFIG, "\"n_action_step\" in the JSON configuration is not a setting; \"n_action_steps\" is" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"n_actions_steps\":1," REST "}", NULL, MAIL_E_CONFIG, "in the JSON configuration is not a setting; \"n_action_steps\"" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"n_action_setps\":1," REST "}", NULL, MAIL_E_CONFIG, "in the JSON configuration is not a setting; \"n_action_steps\"" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"n_action_step\":1,\"n_action_steps\":2," REST "}", NULL, MAIL_E_CONFIG, "is not a setting; \"n_action_steps\" is" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"scheduler\":{},\"scale\":1,\"camera\":0," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"n_action_step\":null," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"n_act_steps\":1,\"\":1,\"n\":0," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"config\":{\"diffusion_X\":8}," REST "}", NULL, MAIL_E_CONFIG, "\"diffusion_X\" in the JSON configuration is not a setting; \"diffusion_x\"" },
        { MAIL_D_MA, MAIL_BC, "{\"diffusion_X\":8,\"scheduler\":{},\"n_head\":4,\"scale_data\":false"  "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_sec\":4," REST "}", NULL, MAIL_E_CONFIG, "in the JSON configuration is not a setting; \"obs_seq\"" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"scaled_data\":true," DDPM "," SCALER "}", NULL, MAIL_E_CONFIG, "in the JSON configuration is not a setting; \"scale_data\"" },
        { MAIL_D_MA, MAIL_BC, "{\"scale_data\":true,\"scalar\":{}"  "}", NULL, MAIL_E_CONFIG, "in the JSON configuration is not a setting; \"scaler\"" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"action_name\":[]," REST "}", NULL, MAIL_E_CONFIG, "in the JSON configuration is not a setting; \"action_names\"" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4," REST "}", "\"mail.n_action_step\":\"1\"", MAIL_E_CONFIG, "\"mail.n_action_step\" in the file's __metadata__ is not a setting; \"mail.n_action_steps\" is" },
        { MAIL_D_TR, MAIL_BC, "{\"n_head\":4,\"scale_data\":false"  "}", NULL, MAIL_E_CONFIG, "in the JSON configuration is not a setting; \"n_heads\"" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"obs_seq\":4," REST "}", NULL, MAIL_E_CONFIG, "obs_seq: it is there twice" },
        { MAIL_D_MA, MAIL_DDPM, "{\"config\":{\"obs_seq\":4}," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"config\":{\"obs_seq\":4},\"obs_seq\":4," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"config\":{\"obs_seq\":4},\"obs_seq\":5," REST "}", NULL, MAIL_E_CONFIG,
          "obs_seq: 5 in the JSON configuration, but 4 in member config of the JSON configuration" },
        { MAIL_D_MA, MAIL_DDPM, "{\"config\":{},\"config\":{}," REST "}", NULL, MAIL_E_CONFIG, "config: it is there twice" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":null," REST "}", "\"mail.obs_seq\":\"4\"", MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4," REST "}", "\"mail.obs_seq\":\"5\"", MAIL_E_CONFIG, "obs_seq: 4 in the JSON configuration, but 5 in the file's __metadata__" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4.0," REST "}", NULL, MAIL_E_CONFIG, "obs_seq in the JSON configuration: expected a whole number, found 4.0" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":\"4\"," REST "}", NULL, MAIL_E_CONFIG, "expected a whole number, found \"4\"" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":99999999999," REST "}", NULL, MAIL_E_CONFIG, "expected a whole number" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"d_model\":9," REST "}", NULL, MAIL_E_CONFIG, "d_model: 9 in the JSON configuration, but 8 in the tensors' shapes" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"n_layers\":3," REST "}", NULL, MAIL_E_CONFIG, "n_layers: 3 in the JSON configuration, but 2 in the tensors' shapes" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"d_state\":4," REST "}", NULL, MAIL_E_CONFIG, "d_state" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"d_conv\":4," REST "}", NULL, MAIL_E_CONFIG, "d_conv" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"expand\":2,\"enc_layers\":9," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"expand\":4," REST "}", NULL, MAIL_E_CONFIG, "expand: 4 in the JSON configuration, but d_inner is 16 and d_model 8" },
        { MAIL_ED_MA, MAIL_DDPM, "{\"enc_layers\":2,\"dec_layers\":3,\"dec_state\":3,\"dec_conv\":2,\"n_layers\":9," REST "}", NULL, MAIL_OK, "" },
        { MAIL_ED_MA, MAIL_DDPM, "{\"enc_layers\":3," REST "}", NULL, MAIL_E_CONFIG, "enc_layers" },
        { MAIL_ED_TR, MAIL_BC, "{\"dec_layers\":2," REST "}", NULL, MAIL_E_CONFIG, "dec_layers" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"arch\":\"d_ma\",\"algo\":\"ddpm\",\"lang\":false," REST "}", NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"arch\":\"ed_ma\"," REST "}", NULL, MAIL_E_CONFIG, "arch: ed_ma in the JSON configuration, but d_ma in the tensors' shapes" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"algo\":\"bc\"," REST "}", NULL, MAIL_E_CONFIG, "algo: bc in the JSON configuration, but ddpm in the tensors' shapes" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"lang\":true," REST "}", NULL, MAIL_E_CONFIG, "lang: true in the JSON configuration, but false in the tensors' shapes" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"arch\":\"x\"," REST "}", NULL, MAIL_E_CONFIG, "expected d_ma or ed_ma or d_tr or ed_tr, found \"x\"" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"arch\":3," REST "}", NULL, MAIL_E_CONFIG, "arch in the JSON configuration: expected" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"action_dim\":3," REST "}", NULL, MAIL_E_CONFIG, "action_dim" },
        { MAIL_D_MA, MAIL_DDPM, "{\"obs_seq\":4,\"state_dim\":3," REST "}", NULL, MAIL_E_CONFIG, "state_dim" },
        { MAIL_D_TR, MAIL_DDPM, "{\"obs_seq\":4,\"n_heads\":3,\"scale_data\":true," DDPM "," SCALER "}", NULL, MAIL_E_CONFIG, "n_heads: 3 in the JSON configuration, which does not divide d_model 8" },
        { MAIL_D_TR, MAIL_DDPM, "{\"obs_seq\":4,\"n_heads\":0,\"scale_data\":true," DDPM "," SCALER "}", NULL, MAIL_E_CONFIG, "n_heads" },
#define DIFF(t) "{\"obs_seq\":4,\"scale_data\":true," SCALER "," t "}"
        { MAIL_D_MA, MAIL_DDPM, DIFF(DDPM), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, DIFF(DDPM ",\"diffusion_x\":10"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, DIFF(DDPM ",\"diffusion_x\":1001"), NULL, MAIL_E_CONFIG, "diffusion_x: expected 0 to 1000" },
        { MAIL_D_MA, MAIL_DDPM, DIFF("\"n_timesteps\":0,\"schedule\":\"vp\",\"clip_denoised\":true,\"predict_epsilon\":false"), NULL, MAIL_E_CONFIG, "n_timesteps: expected 1 to 1000, found 0" },
        { MAIL_D_MA, MAIL_DDPM, DIFF("\"n_timesteps\":16,\"schedule\":\"cos\",\"clip_denoised\":true,\"predict_epsilon\":false"), NULL, MAIL_E_CONFIG, "expected cosine or linear or vp, found \"cos\"" },
        { MAIL_D_MA, MAIL_DDPM, DIFF("\"n_timesteps\":16,\"schedule\":\"linear\",\"clip_denoised\":1,\"predict_epsilon\":0"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, DIFF("\"n_timesteps\":16,\"schedule\":\"linear\",\"clip_denoised\":2,\"predict_epsilon\":0"), NULL, MAIL_E_CONFIG, "expected false or true, found 2" },
        { MAIL_D_MA, MAIL_DDPM, DIFF("\"schedule\":\"linear\""),
          "\"mail.n_timesteps\":\"16\",\"mail.schedule\":\"linear\",\"mail.clip_denoised\":\"True\",\"mail.predict_epsilon\":\"false\"", MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, DIFF("\"schedule\":\"linear\""), "\"mail.schedule\":\"cosine\"", MAIL_E_CONFIG, "schedule: linear in the JSON configuration, but cosine in the file's __metadata__" },
        { MAIL_D_MA, MAIL_DDPM, DIFF(DDPM), "\"mail.clip_denoised\":\"yes\"", MAIL_E_CONFIG, "clip_denoised in the file's __metadata__: expected false or true, found yes" },
        { MAIL_D_MA, MAIL_DDPM, DIFF(DDPM), "\"mail.n_timesteps\":\"sixteen\"", MAIL_E_CONFIG, "mail.n_timesteps in the file's __metadata__: line 1, column 1: expected a value" },
#define SCALE(t) "{\"obs_seq\":4," DDPM "," t "}"
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true"), "\"mail.scaler.mean\":\"[0,0]\",\"mail.scaler.std\":\"[1,1]\",\"mail.scaler.min\":\"[-1,-1]\",\"mail.scaler.max\":\"[1,1]\"", MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true," SCALER), "\"mail.scaler.mean\":\"[0.5,-1]\"", MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true," SCALER), "\"mail.scaler.mean\":\"[0.5,-1.25]\"", MAIL_E_CONFIG, "scaler.mean[1]: -1 in the JSON configuration, but -1.25 in the file's __metadata__" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":false,\"scaler\":{\"min\":[0,0],\"max\":[1,1]}"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0],\"std\":[1,1]}"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0]}"), NULL, MAIL_E_CONFIG, "__metadata__: scaler.std" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":null"), NULL, MAIL_E_CONFIG, "scaler.mean, scaler.std" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":[0]"), NULL, MAIL_E_CONFIG, "scaler in the JSON configuration: expected an object" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0],\"mean\":[0,0]}"), NULL, MAIL_E_CONFIG, "scaler.mean: it is there twice" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0]}"), NULL, MAIL_E_CONFIG, "scaler.mean in the JSON configuration: expected 2 numbers (action_dim), found 1" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0,0]}"), NULL, MAIL_E_CONFIG, "found 3" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,true]}"), NULL, MAIL_E_CONFIG, "expected finite numbers, found true" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,1e39]}"), NULL, MAIL_E_CONFIG, "expected finite numbers, found 1e39" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,1e999999999999]}"), NULL, MAIL_E_CONFIG, "expected finite numbers" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":0}"), NULL, MAIL_E_CONFIG, "an array of numbers" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0],\"std\":[1,-1]}"), NULL, MAIL_E_CONFIG, "scaler.std[1]: expected at least 0, found -1" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0],\"std\":[1,1],\"min\":[-1,2],\"max\":[1,1]}"), NULL, MAIL_E_CONFIG, "scaler.min[1] is 2, above scaler.max[1] = 1" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,3],\"std\":[1,1],\"min\":[-1,0],\"max\":[1,1]}"), NULL, MAIL_E_CONFIG, "scaler.mean[1] is 3, not between" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0],\"std\":[1,0],\"min\":[-1,-1],\"max\":[1,1]}"), NULL, MAIL_E_CONFIG, "scaler.std[1] is 0, which numbers from scaler.min -1 to scaler.max 1 cannot have" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0],\"std\":[1,1.5],\"min\":[-1,-1],\"max\":[1,1]}"), NULL, MAIL_E_CONFIG, "scaler.std[1] is 1.5, which numbers from scaler.min -1 to scaler.max 1 cannot have" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0],\"std\":[1,100],\"min\":[-1,-1],\"max\":[1,1]}"), NULL, MAIL_E_CONFIG, "scaler.std[1] is 100, which numbers from scaler.min -1 to scaler.max 1 cannot have" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0],\"std\":[1,1.000005],\"min\":[-1,-1],\"max\":[1,1]}"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,3],\"std\":[1,0],\"min\":[-1,3],\"max\":[1,3]}"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0.100958],\"std\":[1,0.000958],\"min\":[-1,0.1],\"max\":[1,0.1]}"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,3],\"std\":[1,0.5],\"min\":[-1,3],\"max\":[1,3]}"), NULL, MAIL_E_CONFIG, "scaler.std[1] is 0.5, which numbers from scaler.min 3 to scaler.max 3 cannot have" },
        { MAIL_D_MA, MAIL_DDPM, SCALE("\"scale_data\":false,\"scaler\":{\"mean\":[0,0],\"std\":[1,100],\"min\":[-1,-1],\"max\":[1,1]}"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":true,\"scaler\":{\"mean\":[0,0],\"std\":[1,0]}"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"description\":\"a \\u00e4\",\"action_names\":[\"x\",\"y\"]"), "\"mail.description\":\"a \xc3\xa4\",\"mail.action_names\":\"[\\\"x\\\",\\\"y\\\"]\"", MAIL_OK, "" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"description\":\"a\""), "\"mail.description\":\"b\"", MAIL_E_CONFIG, "description: 'a' in the JSON configuration, but 'b' in the file's __metadata__" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"description\":7"), NULL, MAIL_E_CONFIG, "description in the JSON configuration: expected text" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"action_names\":[\"x\"]"), NULL, MAIL_E_CONFIG, "action_names in the JSON configuration: expected 2 (action_dim), found 1" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"action_names\":[\"x\",\"a name of more than sixty-three bytes, which a joint hardly ever has\"]"), NULL, MAIL_E_CONFIG, "text of at most 63 bytes" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"action_names\":\"xy\""), NULL, MAIL_E_CONFIG, "an array of strings" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"action_names\":[\"x\",\"y\"]"), "\"mail.action_names\":\"[\\\"x\\\",\\\"z\\\"]\"", MAIL_E_CONFIG, "action_names: 'y' in the JSON configuration, but 'z'" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"cameras\":{}"), NULL, MAIL_OK, "" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"cameras\":{\"c\":[32,32]}"), NULL, MAIL_E_CONFIG, "\"c\" is named, but the file has no camera network" },
        { MAIL_D_MA, MAIL_BC, SCALE("\"scale_data\":false,\"cameras\":[]"), NULL, MAIL_E_CONFIG, "an object of name: [height, width]" },
        { MAIL_D_MA, MAIL_BC, "[1]", NULL, MAIL_E_CONFIG, "the JSON configuration: expected an object" },
        { MAIL_D_MA, MAIL_BC, "", NULL, MAIL_E_CONFIG, "the JSON configuration: line 1, column 1: expected a value, found the end" },
        { MAIL_D_MA, MAIL_BC, "{\n  \"description\": \"\xc3\xa4\", 'scaler': 0}", NULL, MAIL_E_CONFIG, "the JSON configuration: line 2, column 23: expected a name in quotes, found ''scaler': 0}'" },
        { MAIL_D_MA, MAIL_BC, "{\"scaler\":{\"mean\":[NaN]}}", NULL, MAIL_E_CONFIG, "the JSON configuration: line 1, column 20: expected a value, found 'NaN]}}'" },
    };
    mail_error   err;
    mailp_config cfg;
    size_t       i;
    char         json[2048];
    spec         s;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        mail_status status;
        s          = spec_of(cases[i].arch, cases[i].algo, 0);
        s.metadata = cases[i].metadata;
        status     = configure(&cfg, &s, cases[i].json, &err, NULL);
        CHECK_MSG(status == cases[i].status && strstr(err.text, cases[i].text) != NULL, "case %lu: status %d '%s', expected %d '%s'", (unsigned long)i,
                  status, err.text, cases[i].status, cases[i].text);
    }
    s          = spec_of(MAIL_D_MA, MAIL_BC, 0);
    snprintf(json, sizeof json, "{\"scale_data\":false,\"description\":\"%01024d\"}", 0);
    CHECK(configure(&cfg, &s, json, &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "text of at most 1023 bytes") != NULL);
    snprintf(json, sizeof json, "\"mail.description\":\"%01024d\"", 0);
    s.metadata = json;
    CHECK(configure(&cfg, &s, "{\"scale_data\":false}", &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "text of at most 1023 bytes") != NULL);
    snprintf(json, sizeof json, "\"mail.description\":\"%01023d\"", 0);
    CHECK(configure(&cfg, &s, "{\"scale_data\":false}", &err, NULL) == MAIL_OK && strlen(cfg.description) == 1023);
}

/* ---- tensors that do not fit ------------------------------------------------------------------------------------------- */

#define EMPTY(name, shape) "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[0,0]}"

static void test_shapes(void) {
    static const struct {
        int         arch, algo, cameras;
        const char *without, *extra;
        mail_status status;
        const char *text;
    } cases[] = {
        { MAIL_D_MA, MAIL_DDPM, 0, "model.model.tok_emb.weight", NULL, MAIL_E_TENSOR, "not a MaIL policy: neither 'model.model.tok_emb.weight'" },
        { MAIL_D_MA, MAIL_DDPM, 0, "model.model.pos_emb", NULL, MAIL_E_TENSOR, "'model.model.pos_emb' is missing" },
        { MAIL_D_MA, MAIL_DDPM, 0, "model.model.pos_emb", EMPTY("model.model.pos_emb", "1,0,8"), MAIL_E_TENSOR, "none of them 0" },
        { MAIL_D_MA, MAIL_DDPM, 0, "model.model.pos_emb", EMPTY("model.model.pos_emb", "0,8"), MAIL_E_TENSOR, "expected 3 dimensions" },
        { MAIL_D_MA, MAIL_DDPM, 0, "model.model.mamba.layers.0.mixer.A_log", NULL, MAIL_E_TENSOR, "no layers" },
        { MAIL_D_MA, MAIL_DDPM, 0, "model.model.mamba.layers.0.mixer.conv1d.weight", NULL, MAIL_E_TENSOR, "conv1d.weight' is missing" },
        { MAIL_D_TR, MAIL_BC, 0, "model.encoder.blocks.0.ln1.weight", NULL, MAIL_E_TENSOR, "no layers" },
        { MAIL_ED_MA, MAIL_BC, 0, "model.action_token.weight", NULL, MAIL_E_TENSOR, "'model.action_token.weight' is missing" },
        { MAIL_D_MA, MAIL_BC, 2, "obs_encoder.key_model_map.cam.nets.3.weight", NULL, MAIL_E_TENSOR, "nets.3.weight' is missing" },
        { MAIL_D_MA, MAIL_BC, 2, "obs_encoder.key_model_map.cam.pool.pos_x", NULL, MAIL_E_TENSOR, "nets.1.nets.weight' is missing" },
        { MAIL_D_MA, MAIL_BC, 2, NULL, EMPTY("obs_encoder.key_model_map.x", "0"), MAIL_E_TENSOR, "expected a camera's name" },
        { MAIL_D_MA, MAIL_BC, 2, NULL, EMPTY("obs_encoder.key_model_map..x", "0"), MAIL_E_TENSOR, "expected a camera's name" },
        { MAIL_D_MA, MAIL_BC, 2, NULL, EMPTY("obs_encoder.key_model_map.third.x", "0"), MAIL_E_TENSOR, "third.nets.0.nets.0.weight' is missing" },
        { MAIL_D_MA, MAIL_BC, 2, NULL, EMPTY("obs_encoder.key_model_map.a234567890123456789012345678901234567890123456789012345678901234.x", "0"),
          MAIL_E_TENSOR, "1 to 63 bytes" },
    };
    mail_error   err;
    mailp_config cfg;
    size_t       i;
    spec         s;
    char         extra[2048];
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        mail_status status;
        s         = spec_of(cases[i].arch, cases[i].algo, 0);
        s.cameras = cases[i].cameras;
        s.without = cases[i].without;
        s.extra   = cases[i].extra;
        status    = configure(&cfg, &s, ALL, &err, NULL);
        CHECK_MSG(status == cases[i].status && strstr(err.text, cases[i].text) != NULL, "case %lu: status %d '%s', expected %d '%s'", (unsigned long)i,
                  status, err.text, cases[i].status, cases[i].text);
    }
    s         = spec_of(MAIL_D_MA, MAIL_BC, 0);
    s.cameras = 2;
    extra[0]  = 0;
    for (i = 0; i < 7; i++) {
        char one[128];
        snprintf(one, sizeof one, "%s" EMPTY("obs_encoder.key_model_map.c%lu.x", "0"), i == 0 ? "" : ",", (unsigned long)i);
        strcat(extra, one);
    }
    s.extra = extra;
    CHECK(configure(&cfg, &s, ALL, &err, NULL) == MAIL_E_UNSUPPORTED && strstr(err.text, "more than 8 cameras") != NULL);
    s         = spec_of(MAIL_D_MA, MAIL_BC, 0);
    s.obs_seq = 0;  /* pos_emb has too few rows for the query table */
    CHECK(configure(&cfg, &s, ALL, &err, NULL) == MAIL_E_TENSOR && strstr(err.text, "too few for 3 actions") != NULL);
    s         = spec_of(MAIL_D_MA, MAIL_DDPM, 1);
    s.obs_seq = 0;
    s.act_seq = 1;
    CHECK(configure(&cfg, &s, ALL, &err, NULL) == MAIL_E_TENSOR);
    {   /* tensors in place of those that make() gives */
        static const struct {
            int         algo, cameras;
            const char *without, *extra;
            mail_status status;
            const char *text;
        } shapes[] = {
#define SHAPE(name, shape, bytes) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" shape "],\"data_offsets\":[0," bytes "]}"
            { MAIL_BC, 0, "model.action_pred.weight", SHAPE("model.action_pred.weight", "65,1", "65"), MAIL_E_UNSUPPORTED, "actions have 65 dimensions; the limit is 64" },
            { MAIL_DDPM, 0, "model.model.tok_emb.weight", SHAPE("model.model.tok_emb.weight", "7,4", "28"), MAIL_E_UNSUPPORTED, "d_model is 7" },
            { MAIL_BC, 2, "obs_encoder.key_model_map.cam.backbone.nets.0.weight",
              SHAPE("obs_encoder.key_model_map.cam.backbone.nets.0.weight", "24,1,1,1", "24"), MAIL_E_UNSUPPORTED, "its ResNet has 24 channels; a multiple of 16" },
            { MAIL_BC, 2, "obs_encoder.key_model_map.cam.pool.pos_x", SHAPE("obs_encoder.key_model_map.cam.pool.pos_x", "2,3", "6"), MAIL_E_TENSOR,
              "expected shape [1, height * width]" },
            { MAIL_BC, 2, "obs_encoder.key_model_map.cam.pool.pos_x", SHAPE("obs_encoder.key_model_map.cam.pool.pos_x", "1,7", "7"), MAIL_E_TENSOR,
              "7 coordinates do not make rows of 2" },
            { MAIL_BC, 2, "model.tok_emb.weight", SHAPE("model.tok_emb.weight", "8,9", "72"), MAIL_E_TENSOR, "takes 9 features, but the 2 cameras give 10" },
        };
        for (i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            mail_status status;
            s         = spec_of(MAIL_D_MA, shapes[i].algo, 0);
            s.cameras = shapes[i].cameras;
            s.without = shapes[i].without;
            s.extra   = shapes[i].extra;
            status    = configure(&cfg, &s, ALL, &err, NULL);
            CHECK_MSG(status == shapes[i].status && strstr(err.text, shapes[i].text) != NULL, "shape %lu: status %d '%s', expected '%s'", (unsigned long)i,
                      status, err.text, shapes[i].text);
        }
    }
    s         = spec_of(MAIL_D_MA, MAIL_BC, 0);
    s.act_seq = 257;
    CHECK(configure(&cfg, &s, ALL, &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "act_seq: expected 1 to 256, found 257") != NULL);
    s         = spec_of(MAIL_D_MA, MAIL_BC, 0);
    s.obs_seq = 257;
    CHECK(configure(&cfg, &s, "{\"scale_data\":false}", &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "obs_seq: expected 1 to 256, found 257") != NULL);
}

static void test_cameras(void) {
    static const char sizes[] = "{\"scale_data\":false,\"cameras\":{\"cam\":[50,70],\"cam-b\":[64,96]}}";
    mail_error        err;
    mailp_config      cfg;
    spec              s = spec_of(MAIL_D_MA, MAIL_BC, 0);
    int               names;
    s.cameras = 2;
    for (names = 0; names < 3; names++) {  /* backbone.*, nets.0.*, both */
        s.nets_names = names;
        CHECK_MSG(configure(&cfg, &s, sizes, &err, NULL) == MAIL_OK, "%s", err.text);
        CHECK(cfg.n_cameras == 2 && strcmp(cfg.camera[0].name, "cam") == 0 && strcmp(cfg.camera[1].name, "cam-b") == 0);
        CHECK(cfg.camera[0].height == 50 && cfg.camera[0].width == 70 && cfg.camera[0].map_height == 2 && cfg.camera[0].map_width == 3);
        CHECK(cfg.camera[1].height == 64 && cfg.camera[0].res_width == 16 && cfg.camera[0].n_keypoints == KEYPOINTS && cfg.camera[0].feature_dim == FEATURE);
        CHECK(cfg.state_dim == 2 * FEATURE);
    }
    {   /* in a .pth the second name is a second view of the same bytes */
        static const char  json[] = "{\"n_timesteps\":4,\"schedule\":\"vp\",\"clip_denoised\":true,\"predict_epsilon\":true,\"obs_seq\":2,"
                                    "\"scale_data\":false,\"scaler\":{\"min\":[-1,-1],\"max\":[1,1]},\"cameras\":{\"eye_in_hand_rgb\":[33,64],\"agentview_rgb\":[97,40]}}";
        mail_tensors      *t;
        const mail_tensor *x, *y;
        CHECK_MSG(mail_tensors_open(&t, "tests/golden/cases/vision_two/model.pth", NULL, &err) == MAIL_OK, "%s", err.text);
        x = mail_tensors_find(t, "obs_encoder.key_model_map.agentview_rgb.nets.0.nets.0.weight");
        y = mail_tensors_find(t, "obs_encoder.key_model_map.agentview_rgb.backbone.nets.0.weight");
        CHECK(x != NULL && y != NULL && x->data == y->data);
        CHECK_MSG(mailp_config_read(&cfg, t, json, sizeof json - 1, "the JSON configuration", &err) == MAIL_OK, "%s", err.text);
        mail_tensors_close(t);
    }
    s.nets_names = 0;
#define CAMERAS(t) "{\"scale_data\":false,\"cameras\":{" t "}}"
    CHECK(configure(&cfg, &s, "{\"scale_data\":false}", &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "cameras (cam), cameras (cam-b)") != NULL);
    CHECK(configure(&cfg, &s, "{\"scale_data\":false,\"camera\":{}}", &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "\"cameras\" is") != NULL);
    CHECK(configure(&cfg, &s, CAMERAS("\"cam\":[64,96]"), &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "cameras (cam-b)") != NULL);
    CHECK(configure(&cfg, &s, CAMERAS("\"cam\":[64,96],\"cam\":[64,96]"), &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "\"cam\" is there twice") != NULL);
    CHECK(configure(&cfg, &s, CAMERAS("\"kam\":[64,96]"), &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "\"kam\" is not a camera") != NULL);
    CHECK(configure(&cfg, &s, CAMERAS("\"cam\":[65,96]"), &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "give a map of 3 x 3, but its pos_x is for 2 x 3") != NULL);
    CHECK(configure(&cfg, &s, CAMERAS("\"cam\":[96,64]"), &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "map of 3 x 2") != NULL);
    CHECK(configure(&cfg, &s, CAMERAS("\"cam\":[64]"), &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "cam in the JSON configuration: expected [height, width]") != NULL);
    CHECK(configure(&cfg, &s, CAMERAS("\"cam\":[0,96]"), &err, NULL) == MAIL_E_CONFIG);
    CHECK(configure(&cfg, &s, CAMERAS("\"cam\":[64,4294967296]"), &err, NULL) == MAIL_E_CONFIG);
    s.metadata = "\"mail.cameras\":\"{\\\"cam\\\":[64,95],\\\"cam-b\\\":[64,96]}\"";
    CHECK(configure(&cfg, &s, "{\"scale_data\":false,\"feat_dim\":5,\"res_width\":16}", &err, NULL) == MAIL_OK && cfg.camera[0].width == 95);
    CHECK(configure(&cfg, &s, "{\"scale_data\":false,\"feat_dim\":4}", &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "feat_dim") != NULL);
    CHECK(configure(&cfg, &s, "{\"scale_data\":false,\"res_width\":64}", &err, NULL) == MAIL_E_CONFIG && strstr(err.text, "res_width") != NULL);
    CHECK(configure(&cfg, &s, CAMERAS("\"cam\":[64,94]"), &err, NULL) == MAIL_E_CONFIG &&
          strstr(err.text, "camera 'cam': 64 x 94 in the JSON configuration, but 64 x 95 in the file's __metadata__") != NULL);
}

/* ---- numbers ----------------------------------------------------------------------------------------------------------- */

static void test_numbers(void) {
    static const char *const texts[] = { "0", "-0", "1", "-1", "0.1", "123456789012345678901234567890", "1e22", "1e23", "1.5e-5", "1E+2", "3.4028234663852886e38",
                                         "1.1754943508222875e-38", "1.4012984643248171e-45", "0.30000001192092896", "2.2250738585072014e-308",
                                         "0.000000000000000000000000000000000000000000000000000001", "1e-400", "179769313486231570000e288",
                                         "1234567890123456789012345678901234567890e-20" };
    mailp_json v;
    mail_error err;
    size_t     i, wrong = 0;
    double     number;
    char       text[64];
    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        double expected = strtod(texts[i], NULL);
        CHECK(mailp_json_check(&v, texts[i], strlen(texts[i]), "number", MAIL_E_CONFIG, &err) == MAIL_OK);
        CHECK_MSG(mailp_json_number(&number, v) && fabs(number - expected) <= 4e-16 * fabs(expected) + 1e-323 && (float)number == (float)expected, "%s: %.17g", texts[i], number);
    }
    CHECK(mailp_json_check(&v, "1e400", 5, "number", MAIL_E_CONFIG, &err) == MAIL_OK && mailp_json_number(&number, v) && number > DBL_MAX);
    CHECK(mailp_json_check(&v, "true", 4, "number", MAIL_E_CONFIG, &err) == MAIL_OK && !mailp_json_number(&number, v));
    for (i = 0; i < 200000; i++) {  /* nine digits give back every float */
        uint32_t bits = (uint32_t)(test_uniform() * 4294967295.0);
        float    f;
        memcpy(&f, &bits, 4);
        if (!(fabs((double)f) <= (double)FLT_MAX)) {
            continue;
        }
        snprintf(text, sizeof text, i % 2 ? "%.9g" : "%.17g", (double)f);
        wrong += mailp_json_check(&v, text, strlen(text), "number", MAIL_E_CONFIG, &err) != MAIL_OK || !mailp_json_number(&number, v) || (float)number != f;
    }
    CHECK_MSG(wrong == 0, "%lu of 200000 floats", (unsigned long)wrong);
}

/* ---- writing ----------------------------------------------------------------------------------------------------------- */

static int alloc_fails;
static void *failing_alloc(void *user, size_t size) {
    (void)user;
    (void)size;
    return alloc_fails ? NULL : mailp_alloc(NULL, size);
}
static void failing_free(void *user, void *memory) {
    (void)user;
    mailp_free(NULL, memory);
}

static void test_save(void) {
    static const char settings[] = "{\"scale_data\":true,\"n_heads\":4,\"obs_seq\":4,\"n_action_steps\":2,\"diffusion_x\":3,\"description\":\"say \\\"hi\\\" \\\\ \\n\","
                                   "\"action_names\":[\"x\\\"\",\"\\u00e9\\t\"],\"cameras\":{\"cam\":[50,70],\"cam-b\":[64,96]}," DDPM ","
                                   "\"scaler\":{\"mean\":[0.1,1.17549435e-38],\"std\":[0.333333343,1e30],\"min\":[-1.00000012,-3e38],\"max\":[0.2,16777217]}}";
    mail_error    err;
    mailp_config  cfg, again;
    mail_tensors *t, *u;
    char          path[300], tmp[320];
    unsigned char *bytes;
    size_t         size;
    FILE          *f;
    int            arch, algo, pass;
    for (arch = 0; arch < 4; arch++) {
        for (algo = 0; algo < 2; algo++) {
            for (pass = 0; pass < 4; pass++) {
                spec s = spec_of(arch, algo, pass & 1);
                s.cameras    = 2;
                s.nets_names = pass == 3 ? 1 : 2;
                s.backbone = s.nets = 1.0 + 1.0 / 512;  /* in bf16: 1 */
                snprintf(path, sizeof path, "%s/test_config.safetensors", out_folder);
                snprintf(tmp, sizeof tmp, "%s.tmp", path);
                if (configure(&cfg, &s, settings, &err, &t) != MAIL_OK) {
                    CHECK_MSG(0, "%s", err.text);
                    continue;
                }
                setlocale(LC_NUMERIC, "de_DE.UTF-8");  /* a comma, where that locale is installed */
                CHECK_MSG(mailp_save(t, &cfg, path, pass < 2 ? MAIL_F32 : MAIL_BF16, &err) == MAIL_OK, "%s", err.text);
                setlocale(LC_NUMERIC, "C");
                CHECK(fopen(tmp, "rb") == NULL);
                CHECK(mailp_read_file(&bytes, &size, path, NULL, &err) == MAIL_OK && mailp_le64(bytes) % 8 == 0);
                mailp_free(NULL, bytes);
                CHECK_MSG(mail_tensors_open(&u, path, NULL, &err) == MAIL_OK, "%s", err.text);
                CHECK_MSG(mailp_config_read(&again, u, NULL, 0, "the JSON configuration", &err) == MAIL_OK, "%s", err.text);
                CHECK(memcmp(&cfg, &again, sizeof cfg) == 0);
                CHECK(mail_tensors_find(u, "obs_encoder._dummy_variable") == NULL && mail_tensors_find(u, "model.encoder.blocks.0.attn.mask") == NULL);
                {
                    const char        *name = pass == 3 ? "obs_encoder.key_model_map.cam.nets.0.nets.0.weight" : "obs_encoder.key_model_map.cam.backbone.nets.0.weight";
                    const mail_tensor *x = mail_tensors_find(u, name);
                    float              v[16 * 3 * 49];
                    CHECK(x != NULL && x->dtype == (pass < 2 ? MAIL_F32 : MAIL_BF16) && mail_tensor_read(x, v, 16 * 3 * 49, &err) == MAIL_OK);
                    CHECK((double)v[5] == (pass < 2 ? s.nets : 1) && v[4] == 0);
                    mailp_tensors_release(u, x);  /* its pages may go, and come back */
                    CHECK(mail_tensor_read(x, v, 16 * 3 * 49, &err) == MAIL_OK && (double)v[5] == (pass < 2 ? s.nets : 1));
                    CHECK((mail_tensors_find(u, "obs_encoder.key_model_map.cam.nets.1.pos_x") != NULL) == (pass == 3));
                    x = mail_tensors_find(u, pass == 3 ? "obs_encoder.key_model_map.cam.nets.1.pos_x" : "obs_encoder.key_model_map.cam.pool.pos_x");
                    CHECK(x != NULL && x->dtype == MAIL_F32 && mail_tensor_read(x, v, 6, &err) == MAIL_OK && v[0] == -1 && v[2] == 1);
                }
                mail_tensors_close(u);
                mail_tensors_close(t);
                free(the_model.file);
            }
        }
    }
    {   /* what cannot be written leaves the old file */
        spec           s = spec_of(MAIL_D_MA, MAIL_BC, 0);
        mail_allocator a;
        CHECK(configure(&cfg, &s, "{\"scale_data\":false}", &err, &t) == MAIL_OK);
        CHECK(mailp_save(t, &cfg, path, MAIL_F16, &err) == MAIL_E_ARGUMENT && strstr(err.text, "F16") != NULL);
        CHECK(mailp_save(t, &cfg, "no/such/folder/x", MAIL_F32, &err) == MAIL_E_IO && strstr(err.text, "no/such/folder/x.tmp") != NULL);
        CHECK(mailp_save(t, &cfg, out_folder, MAIL_F32, &err) == MAIL_E_IO);  /* a folder is in the way */
        snprintf(tmp, sizeof tmp, "%s.tmp", out_folder);
        CHECK(fopen(tmp, "rb") == NULL);
        snprintf(tmp, sizeof tmp, "%s.tmp", path);  /* somebody's file under the name that is tried first stays */
        f = fopen(tmp, "wb");
        CHECK(f != NULL && fputs("mine", f) >= 0 && fclose(f) == 0);
        CHECK(mailp_save(t, &cfg, path, MAIL_F32, &err) == MAIL_OK);
        CHECK((f = fopen(tmp, "rb")) != NULL && fgetc(f) == 'm' && fclose(f) == 0);
        remove(tmp);
        snprintf(tmp, sizeof tmp, "%s.tmp1", path);
        CHECK(fopen(tmp, "rb") == NULL);
        f = fopen("/dev/full", "wb");
        if (f != NULL) {  /* a full disk */
            mailp_writer w;
            memset(&w, 0, sizeof w);
            w.file = f;
            mailp_put_file(&w, t, &cfg, MAIL_F32);
            CHECK(w.failed || fflush(f) != 0);
            fclose(f);
        } else {
            test_skipped++;
        }
        CHECK(mail_tensors_open(&u, path, NULL, &err) == MAIL_OK);
        mail_tensors_close(u);
        memset(&a, 0, sizeof a);
        a.alloc = failing_alloc;
        a.free  = failing_free;
        CHECK(mail_tensors_open_memory(&u, the_model.file, the_model.size, &a, &err) == MAIL_OK);
        alloc_fails = 1;
        CHECK(mailp_save(u, &cfg, path, MAIL_F32, &err) == MAIL_E_MEMORY);
        alloc_fails = 0;
        mail_tensors_close(u);
        mail_tensors_close(t);
        free(the_model.file);
    }
    remove(path);
}

/* An error of loading begins with the checkpoint's path and says which JSON file it is about. */
static void test_named_files(void) {
    static const struct {
        const char *beside, *json;  /* config_json */
        const char *text;
    } cases[] = {
        { NULL, NULL, "test_config.pth: missing as \"mail.NAME\" in the __metadata__ (no test_config.json or config.json is beside it): obs_seq or act_seq" },
        { "{", NULL, "test_config.pth: test_config.json: line 1, column 2: expected a name" },
        { "{}", NULL, "test_config.pth: missing in test_config.json or as \"mail.NAME\" in the __metadata__: obs_seq or act_seq" },
        { "{\"obs_seq\":true}", NULL, "test_config.pth: obs_seq in test_config.json: expected a whole number, found true" },
        { "{\"config\":{\"d_model\":9}}", NULL, "test_config.pth: d_model: 9 in member config of test_config.json, but 8 in" },
        { "{}", "[]", "test_config.pth: options->config_json: expected an object" },
        { "{}", "{\"d_model\":9}", "test_config.pth: d_model: 9 in options->config_json, but 8 in" },
        { "", NULL, "test_config.json: the file is empty" },
    };
    spec         s = spec_of(MAIL_D_MA, MAIL_DDPM, 0);
    char         path[300], beside[300];
    size_t       i;
    mail_error   err;
    mail_policy *policy;
    FILE        *f;
    snprintf(path, sizeof path, "%s/test_config.pth", out_folder);
    snprintf(beside, sizeof beside, "%s/test_config.json", out_folder);
    make(&the_model, &s);
    CHECK((f = fopen(path, "wb")) != NULL && fwrite(the_model.file, 1, the_model.size, f) == the_model.size && fclose(f) == 0);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        mail_options o = mail_options_init();
        o.config_json = cases[i].json;
        remove(beside);
        if (cases[i].beside != NULL) {
            CHECK((f = fopen(beside, "wb")) != NULL && fputs(cases[i].beside, f) >= 0 && fclose(f) == 0);
        }
        err.text[0] = 0;
        CHECK_MSG(mail_policy_load(&policy, path, &o, &err) != MAIL_OK && strncmp(err.text, path, strlen(out_folder)) == 0 &&
                  strstr(err.text, cases[i].text) != NULL, "%lu: '%s', expected '%s'", (unsigned long)i, err.text, cases[i].text);
    }
    remove(beside);
    remove(path);
    CHECK(mail_policy_load_memory(&policy, the_model.file, the_model.size, NULL, &err) == MAIL_E_CONFIG &&
          strncmp(err.text, "missing as \"mail.NAME\" in the __metadata__ (there is no options->config_json): obs_seq", 80) == 0);
    free(the_model.file);
}

/* What is no regular file stays what it is. */
static void test_save_in_place_of(void) {
#ifdef MAILP_LSTAT
    mail_error    err;
    mailp_config  cfg;
    mail_tensors *t;
    struct stat   st;
    spec          s = spec_of(MAIL_D_MA, MAIL_BC, 0);
    char          path[300], fifo[300], link[300], dangling[300];
    snprintf(path, sizeof path, "%s/test_config.safetensors", out_folder);
    snprintf(fifo, sizeof fifo, "%s/test_config.fifo", out_folder);
    snprintf(link, sizeof link, "%s/test_config.link", out_folder);
    snprintf(dangling, sizeof dangling, "%s/test_config.dangling", out_folder);
    remove(fifo);
    remove(link);
    remove(dangling);
    CHECK(configure(&cfg, &s, "{\"scale_data\":false}", &err, &t) == MAIL_OK);
    CHECK(mailp_save(t, &cfg, path, MAIL_F32, &err) == MAIL_OK && mailp_save(t, &cfg, path, MAIL_F32, &err) == MAIL_OK);
    if (mkfifo(fifo, 0666) == 0 && symlink("test_config.safetensors", link) == 0 && symlink("test_config.absent", dangling) == 0) {
        CHECK_MSG(mailp_save(t, &cfg, fifo, MAIL_F32, &err) == MAIL_E_IO && strstr(err.text, "test_config.fifo: ") != NULL, "%s", err.text);
        CHECK(lstat(fifo, &st) == 0 && S_ISFIFO(st.st_mode));
        CHECK_MSG(mailp_save(t, &cfg, link, MAIL_F32, &err) == MAIL_E_IO && strstr(err.text, "in place of a link") != NULL, "%s", err.text);
        CHECK(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
        CHECK(mailp_save(t, &cfg, dangling, MAIL_F32, &err) == MAIL_E_IO && lstat(dangling, &st) == 0 && S_ISLNK(st.st_mode));
        CHECK(mailp_save(t, &cfg, out_folder, MAIL_F32, &err) == MAIL_E_IO && stat(out_folder, &st) == 0 && S_ISDIR(st.st_mode));
    } else {
        test_skipped++;
    }
    remove(fifo);
    remove(link);
    remove(dangling);
    remove(path);
    mail_tensors_close(t);
    free(the_model.file);
#else
    test_skipped++;
#endif
}

/* ---- every byte of the JSON text changed: an error or a configuration, nothing worse ------------------------------------ */

static void test_hostile(void) {
    static const char json[] = "{\"config\":{\"obs_seq\":4,\"lang\":false,\"arch\":\"d_ma\"},\"description\":\"\\u00e9\",\"action_names\":[\"a\",\"b\"],\"cameras\":"
                               "{\"cam\":[50,70],\"cam-b\":[64,96]},\"scale_data\":true," DDPM "," SCALER "}";
    mail_error    err;
    mailp_config  cfg;
    mail_tensors *t;
    spec          s = spec_of(MAIL_D_MA, MAIL_DDPM, 0);
    size_t        n = sizeof json - 1, i, accepted = 0;
    char         *text = (char *)malloc(n);
    unsigned      c;
    s.cameras = 2;
    CHECK_MSG(configure(&cfg, &s, json, &err, &t) == MAIL_OK, "%s", err.text);
    for (i = 0; i < n; i++) {
        char *part = (char *)malloc(i + 1);
        memcpy(part, json, i);
        accepted += mailp_config_read(&cfg, t, part, i, "the JSON configuration", &err) == MAIL_OK;
        free(part);
        for (c = 1; c < 256; c += 3) {
            memcpy(text, json, n);
            text[i] = (char)(text[i] ^ (char)c);
            if (mailp_config_read(&cfg, t, text, n, "the JSON configuration", &err) != MAIL_OK && (err.code == MAIL_OK || err.text[0] == 0)) {
                CHECK_MSG(0, "byte %lu", (unsigned long)i);
            }
        }
    }
    CHECK_MSG(accepted == 0, "%lu truncations were accepted", (unsigned long)accepted);
    free(text);
    mail_tensors_close(t);
    free(the_model.file);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        out_folder = argv[1];
    }
    test_numbers();
    test_systems();
    test_settings();
    test_shapes();
    test_cameras();
    test_save();
    test_save_in_place_of();
    test_named_files();
    test_hostile();
    return test_end("config");
}
