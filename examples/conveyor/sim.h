/* sim.h: a small closed-loop task with rendered pictures, for training and running a MaIL policy.

   A two-link arm seen from above has to pass a round obstacle, on either side, and close its gripper on a puck that
   slides to and fro on a rail. The policy sees two cameras and nothing else: "agentview_rgb" looks at the whole table,
   "eye_in_hand_rgb" travels with the hand. Each camera loses a fifth of its frames (a white picture). The puck's direction
   is in no single frame, and an empty grip costs time and is allowed twice, so a history is of use. The expert passes
   the obstacle left or right with equal chance, and the start is so close to it that the mean of both ways is a collision.

       action[0], action[1]   how far the hand moves in this tick, x and y (at most 0.075)
       action[2]              gripper: above 0 closes it; on the puck, that is the end

   Use:  conveyor_sim s;
         conveyor_reset(&s, seed);
         for (;;) { conveyor_picture(&s, 0, 64, 64, rgb); ... if (conveyor_step(&s, action) != CONVEYOR_RUNNING) break; }

   The arm is held for the first CONVEYOR_SETTLE ticks: actions are ignored and a policy may fill its history.
   Everything follows from the seed. No memory is allocated and nothing is kept outside conveyor_sim, which may be copied.
   C99 and C++11. To make a shared library of it:  cc -O2 -shared -fPIC -DCONVEYOR_API= -x c sim.h -o libconveyor.so -lm */

#ifndef CONVEYOR_SIM_H
#define CONVEYOR_SIM_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef CONVEYOR_API
#define CONVEYOR_API static inline
#endif

#define CONVEYOR_ACTION_DIM 3
#define CONVEYOR_CAMERAS 2
#define CONVEYOR_SETTLE 4     /* ticks at the start in which the arm is held */
#define CONVEYOR_TIME_LIMIT 80 /* ticks, settling included; the expert needs 25 to 45 */

#define CONVEYOR_RAIL_Y 0.68f
#define CONVEYOR_RAIL_X 0.78f     /* the puck's centre turns round at +-this */
#define CONVEYOR_PUCK_R 0.10f
#define CONVEYOR_HAND_R 0.06f
#define CONVEYOR_SOFT 0.02f       /* the hand's rim gives way by this much before a touch counts */
#define CONVEYOR_CATCH_R 0.16f    /* the gripper holds the puck if the hand touches it: the sum of both radii */
#define CONVEYOR_TRIES 3          /* the gripper may close on nothing twice */
#define CONVEYOR_REOPEN 4         /* ticks that it takes to open again; the arm is held meanwhile */
#define CONVEYOR_EXPERT_SPEED 0.06f
#define CONVEYOR_MAX_SPEED 0.075f
#define CONVEYOR_CLEARANCE 0.08f  /* the expert's distance from the obstacle */
#define CONVEYOR_LINK 1.10f       /* length of both arm links */
#define CONVEYOR_BASE_Y (-1.25f)
#define CONVEYOR_LOSS 0.20f       /* share of frames that a camera loses */

enum {
    CONVEYOR_RUNNING = 0,
    CONVEYOR_CAUGHT = 1,
    CONVEYOR_HIT = 2,     /* the hand touched the obstacle */
    CONVEYOR_MISSED = 3,  /* the gripper closed on nothing for the last time */
    CONVEYOR_TIMEOUT = 4
};

typedef struct conveyor_sim {
    uint64_t rng;                          /* frame losses, and the demonstrator's disturbances */
    float hand_x, hand_y;
    float puck_x, puck_v;                  /* v per tick, signed */
    float obstacle_x, obstacle_y, obstacle_r;
    float light;                           /* brightness of the scene */
    float drift_x, drift_y;                /* demonstrator's disturbance, correlated in time */
    int32_t way;                           /* the side on which the expert passes: -1 left, +1 right */
    int32_t passed;                        /* the side on which the hand was while beside the obstacle: -1, +1; 0 not yet */
    int32_t tick;
    int32_t status;
    int32_t closed;                        /* the gripper has the puck */
    int32_t misses, reopening;             /* times it closed on nothing; ticks until it is open again */
    int32_t lost[CONVEYOR_CAMERAS];        /* this tick's frame of the camera is lost */
} conveyor_sim;

/* ---------------------------------------------------------------------------------------------------- random numbers */

/* splitmix64: the next 24 random bits as a number in [0, 1). */
static inline float conveyor_random(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    z ^= z >> 31;
    return (float)(z >> 40) * (1.0f / 16777216.0f);
}

static inline float conveyor_between(uint64_t *state, float lo, float hi) {
    return lo + (hi - lo) * conveyor_random(state);
}

/* About normal, variance 1: the sum of twelve uniform numbers. */
static inline float conveyor_normal(uint64_t *state) {
    float sum = -6.0f;
    int   i;
    for (i = 0; i < 12; i++) {
        sum += conveyor_random(state);
    }
    return sum;
}

/* ---------------------------------------------------------------------------------------------------------- dynamics */

static inline void conveyor_lose_frames(conveyor_sim *s) {
    int c;
    for (c = 0; c < CONVEYOR_CAMERAS; c++) {
        s->lost[c] = conveyor_random(&s->rng) < CONVEYOR_LOSS;
    }
}

/* A new episode. Seeds that differ give episodes that have nothing in common. */
CONVEYOR_API void conveyor_reset(conveyor_sim *s, uint64_t seed) {
    uint64_t r = seed * UINT64_C(0xD1342543DE82EF95) + UINT64_C(0x2545F4914F6CDD1D);
    float    gap;
    memset(s, 0, sizeof *s);
    (void)conveyor_random(&r);
    s->obstacle_x = conveyor_between(&r, -0.20f, 0.20f);
    s->obstacle_y = conveyor_between(&r, -0.02f, 0.08f);
    s->obstacle_r = conveyor_between(&r, 0.24f, 0.29f);
    gap = conveyor_between(&r, 0.16f, 0.26f);
    s->hand_x = s->obstacle_x + conveyor_between(&r, -0.08f, 0.08f);
    s->hand_y = s->obstacle_y - s->obstacle_r - CONVEYOR_HAND_R - gap;
    s->puck_x = conveyor_between(&r, -CONVEYOR_RAIL_X, CONVEYOR_RAIL_X);
    s->puck_v = conveyor_between(&r, 0.024f, 0.034f) * (conveyor_random(&r) < 0.5f ? -1.0f : 1.0f);
    s->light = conveyor_between(&r, 0.9f, 1.1f);
    s->way = conveyor_random(&r) < 0.5f ? -1 : 1;
    s->rng = r;
    conveyor_lose_frames(s);
}

static inline void conveyor_move_puck(float *x, float *v) {
    *x += *v;
    if (*x > CONVEYOR_RAIL_X) {
        *x = 2.0f * CONVEYOR_RAIL_X - *x;
        *v = -*v;
    } else if (*x < -CONVEYOR_RAIL_X) {
        *x = -2.0f * CONVEYOR_RAIL_X - *x;
        *v = -*v;
    }
}

static inline float conveyor_obstacle_distance(const conveyor_sim *s) {
    return hypotf(s->hand_x - s->obstacle_x, s->hand_y - s->obstacle_y);
}

/* Hand and puck move on by one tick; no judgement. */
static inline void conveyor_advance(conveyor_sim *s, float dx, float dy) {
    float d = hypotf(dx, dy);
    if (d > CONVEYOR_MAX_SPEED) {
        dx *= CONVEYOR_MAX_SPEED / d;
        dy *= CONVEYOR_MAX_SPEED / d;
    }
    s->hand_x = fminf(fmaxf(s->hand_x + dx, -0.95f), 0.95f);
    s->hand_y = fminf(fmaxf(s->hand_y + dy, -0.95f), 0.80f);
    conveyor_move_puck(&s->puck_x, &s->puck_v);
    if (s->passed == 0 && s->hand_y > s->obstacle_y) {
        s->passed = s->hand_x < s->obstacle_x ? -1 : 1;
    }
    s->tick++;
    conveyor_lose_frames(s);
}

/* One tick. Returns the episode's status, which stays once it is not CONVEYOR_RUNNING. An action that is not a number
   counts as standing still. */
CONVEYOR_API int conveyor_step(conveyor_sim *s, const float *action) {
    float x = action[0], y = action[1];
    if (s->status != CONVEYOR_RUNNING) {
        return s->status;
    }
    if (s->tick < CONVEYOR_SETTLE || s->reopening > 0 || !(fabsf(x) < 1e3f && fabsf(y) < 1e3f)) {
        x = y = 0.0f;
    }
    conveyor_advance(s, x, y);
    if (conveyor_obstacle_distance(s) < s->obstacle_r + CONVEYOR_HAND_R - CONVEYOR_SOFT) {
        s->status = CONVEYOR_HIT;
    } else if (s->reopening > 0) {
        s->reopening--;
    } else if (s->tick > CONVEYOR_SETTLE && action[2] > 0.0f) {
        float d = hypotf(s->hand_x - s->puck_x, s->hand_y - CONVEYOR_RAIL_Y);
        if (d < CONVEYOR_CATCH_R) {
            s->closed = 1;
            s->status = CONVEYOR_CAUGHT;
        } else if (++s->misses == CONVEYOR_TRIES) {
            s->status = CONVEYOR_MISSED;
        } else {
            s->reopening = CONVEYOR_REOPEN;
        }
    } else if (s->tick >= CONVEYOR_TIME_LIMIT) {
        s->status = CONVEYOR_TIMEOUT;
    }
    return s->status;
}

/* ------------------------------------------------------------------------------------------------------------ expert */

/* Length of the shortest way from the hand to (gx, gy) that keeps clear of the obstacle and passes it on the given side;
   if step > 0, also the offset to the point reached after that distance. The way is a straight line if that is clear, and otherwise a
   tangent, an arc and a tangent. */
static inline float conveyor_way(const conveyor_sim *s, float gx, float gy, int way, float step, float *px, float *py) {
    const float pi = 3.14159265f;
    float radius = s->obstacle_r + CONVEYOR_HAND_R + CONVEYOR_CLEARANCE, sign = (float)way;
    float hx = s->hand_x - s->obstacle_x, hy = s->hand_y - s->obstacle_y;
    float qx = gx - s->obstacle_x, qy = gy - s->obstacle_y;
    float dx = qx - hx, dy = qy - hy, straight = hypotf(dx, dy);
    float along = straight > 1e-6f ? -(hx * dx + hy * dy) / (straight * straight) : 0.0f;
    float dh = hypotf(hx, hy), dg = fmaxf(hypotf(qx, qy), radius * 1.0001f), leg, from, to, arc, ax, ay;
    along = fminf(fmaxf(along, 0.0f), 1.0f);
    if (hypotf(hx + along * dx, hy + along * dy) >= radius - 1e-4f) {
        if (step > 0.0f) {
            float f = straight > step ? step / straight : 1.0f;
            *px = f * dx;
            *py = f * dy;
        }
        return straight;
    }
    leg = dh > radius ? sqrtf(dh * dh - radius * radius) : 0.0f;
    from = atan2f(hy, hx) + sign * (dh > radius ? acosf(radius / dh) : 0.0f);
    to = atan2f(qy, qx) - sign * acosf(radius / dg);
    arc = sign * (to - from);
    while (arc < 0.0f) {
        arc += 2.0f * pi;
    }
    while (arc >= 2.0f * pi) {
        arc -= 2.0f * pi;
    }
    if (step > 0.0f) {
        if (leg > step) {
            ax = radius * cosf(from) - hx;
            ay = radius * sinf(from) - hy;
            *px = ax * step / leg;
            *py = ay * step / leg;
        } else {
            float angle = from + sign * fminf((step - leg) / radius, arc);
            *px = radius * cosf(angle) - hx;
            *py = radius * sinf(angle) - hy;
        }
    }
    return leg + radius * arc + sqrtf(dg * dg - radius * radius);
}

/* What the expert does now: meets the puck as early as it can on its side of the obstacle, then travels with it and
   closes the gripper. It changes sides only if it was pushed far over to the other one. */
static inline void conveyor_expert_one(conveyor_sim *s, float *action) {
    float x = s->puck_x, v = s->puck_v, now, other, length = 0.0f;
    int   k;
    now = conveyor_way(s, x, CONVEYOR_RAIL_Y, s->way, 0.0f, NULL, NULL);
    other = conveyor_way(s, x, CONVEYOR_RAIL_Y, -s->way, 0.0f, NULL, NULL);
    if (other < now - 0.35f) {
        s->way = -s->way;
    }
    for (k = 1; k < 120; k++) {
        conveyor_move_puck(&x, &v);
        length = conveyor_way(s, x, CONVEYOR_RAIL_Y, s->way, 0.0f, NULL, NULL);
        if (length <= CONVEYOR_EXPERT_SPEED * (float)k) {
            break;
        }
    }
    action[0] = action[1] = 0.0f;
    if (length > 1e-6f) {
        (void)conveyor_way(s, x, CONVEYOR_RAIL_Y, s->way, length / (float)k, &action[0], &action[1]);
    }
    action[2] = hypotf(s->hand_x - s->puck_x, s->hand_y - CONVEYOR_RAIL_Y) < 0.035f ? 1.0f : -1.0f;
}

/* The expert's next n actions from here, undisturbed; actions [n][3]. Once the gripper closes it stays closed. */
CONVEYOR_API void conveyor_expert(const conveyor_sim *s, float *actions, int n) {
    conveyor_sim c = *s;
    int          i, closed = 0;
    for (i = 0; i < n; i++) {
        float *a = actions + CONVEYOR_ACTION_DIM * i;
        conveyor_expert_one(&c, a);
        closed |= a[2] > 0.0f;
        a[2] = closed ? 1.0f : -1.0f;
        conveyor_advance(&c, a[0], a[1]);
    }
}

/* A demonstration under disturbances: the hand is pushed about, and at each tick the expert says what it would do from
   there. One start in four is anywhere on the table.
   states   out, [max]            the simulator at each tick, first the settling ticks
   actions  out, [max][chunk][3]  the expert's next chunk at each tick
   Returns the number of ticks, at most max; 0 if the seed gives no demonstration. */
CONVEYOR_API int conveyor_demo(uint64_t seed, int max, int chunk, conveyor_sim *states, float *actions) {
    conveyor_sim s;
    int          n, after = 0;
    float        kick_x = 0.0f, kick_y = 0.0f;
    conveyor_reset(&s, seed);
    if (conveyor_random(&s.rng) < 0.25f) {
        float near = s.obstacle_r + CONVEYOR_HAND_R + 0.02f;
        int   tries = 0;
        do {
            s.hand_x = conveyor_between(&s.rng, -0.75f, 0.75f);
            s.hand_y = conveyor_between(&s.rng, -0.75f, 0.72f);
        } while (conveyor_obstacle_distance(&s) < near && ++tries < 100);
        if (conveyor_obstacle_distance(&s) < near) {
            return 0;
        }
    }
    for (n = 0; n < max && after < 4; n++) {
        float  d, near = s.obstacle_r + CONVEYOR_HAND_R + 0.01f;
        float *a = actions + (size_t)n * (size_t)chunk * CONVEYOR_ACTION_DIM;
        states[n] = s;
        conveyor_expert(&s, a, chunk);
        after += a[2] > 0.0f;
        if (s.tick < CONVEYOR_SETTLE) {
            conveyor_advance(&s, 0.0f, 0.0f);
            continue;
        }
        {
            float now[CONVEYOR_ACTION_DIM];
            conveyor_expert_one(&s, now); /* for the side, which it keeps in s */
        }
        if (conveyor_random(&s.rng) < 0.06f) {
            kick_x = 0.02f * conveyor_normal(&s.rng);
            kick_y = 0.02f * conveyor_normal(&s.rng);
        } else if (conveyor_random(&s.rng) < 0.25f) {
            kick_x = kick_y = 0.0f;
        }
        s.drift_x = 0.8f * s.drift_x + 0.008f * conveyor_normal(&s.rng);
        s.drift_y = 0.8f * s.drift_y + 0.008f * conveyor_normal(&s.rng);
        conveyor_advance(&s, a[0] + s.drift_x + kick_x, a[1] + s.drift_y + kick_y);
        d = conveyor_obstacle_distance(&s);
        if (d < near) { /* slide along the obstacle */
            s.hand_x = s.obstacle_x + (s.hand_x - s.obstacle_x) * near / fmaxf(d, 1e-3f);
            s.hand_y = s.obstacle_y + (s.hand_y - s.obstacle_y) * near / fmaxf(d, 1e-3f);
        }
    }
    return n;
}

/* ---------------------------------------------------------------------------------------------------------- renderer */

typedef struct conveyor_canvas {
    uint8_t *rgb;
    int      width, height;
    float    left, top, scale; /* world of pixel (0, 0)'s corner; pixels per world unit */
} conveyor_canvas;

/* Blend a colour over the pixels whose distance from the segment a-b is below r; edges are one pixel soft. */
static inline void conveyor_capsule(const conveyor_canvas *c, float ax, float ay, float bx, float by, float r,
                                    const float *colour) {
    float dx = bx - ax, dy = by - ay, dd = dx * dx + dy * dy, inv = dd > 1e-12f ? 1.0f / dd : 0.0f;
    float pad = r + 1.0f / c->scale;
    int   x0 = (int)floorf(fmaxf((fminf(ax, bx) - pad - c->left) * c->scale, 0.0f));
    int   x1 = (int)ceilf(fminf((fmaxf(ax, bx) + pad - c->left) * c->scale, (float)c->width));
    int   y0 = (int)floorf(fmaxf((c->top - fmaxf(ay, by) - pad) * c->scale, 0.0f));
    int   y1 = (int)ceilf(fminf((c->top - fminf(ay, by) + pad) * c->scale, (float)c->height));
    int   i, j, k;
    for (j = y0; j < y1; j++) {
        float y = c->top - ((float)j + 0.5f) / c->scale - ay;
        for (i = x0; i < x1; i++) {
            float x = c->left + ((float)i + 0.5f) / c->scale - ax;
            float t = fminf(fmaxf((x * dx + y * dy) * inv, 0.0f), 1.0f);
            float ex = x - t * dx, ey = y - t * dy;
            float cover = (r - sqrtf(ex * ex + ey * ey)) * c->scale + 0.5f;
            if (cover > 0.0f) {
                uint8_t *p = c->rgb + ((size_t)j * (size_t)c->width + (size_t)i) * 3;
                float    a = cover < 1.0f ? cover : 1.0f;
                for (k = 0; k < 3; k++) {
                    p[k] = (uint8_t)((float)p[k] + a * (colour[k] - (float)p[k]) + 0.5f);
                }
            }
        }
    }
}

/* The scene without losses. camera 0 is agentview_rgb, 1 is eye_in_hand_rgb; rgb [height][width][3]. */
CONVEYOR_API void conveyor_render(const conveyor_sim *s, int camera, int width, int height, uint8_t *rgb) {
    static const float palette[8][3] = {
        { 70, 74, 84 },    /* rail */
        { 150, 40, 44 },   /* obstacle */
        { 198, 76, 66 },   /* obstacle, top */
        { 250, 214, 40 },  /* puck */
        { 120, 84, 10 },   /* puck, rim */
        { 196, 202, 214 }, /* links */
        { 40, 90, 220 },   /* hand */
        { 240, 244, 255 }  /* fingers, joints */
    };
    float           colour[8][3], half = camera == 0 ? 1.05f : 0.55f, spread;
    conveyor_canvas c;
    int             i, j, k;
    c.rgb = rgb;
    c.width = width;
    c.height = height;
    c.scale = (float)(width < height ? width : height) / (2.0f * half);
    c.left = (camera == 0 ? 0.0f : s->hand_x) - 0.5f * (float)width / c.scale;
    c.top = (camera == 0 ? -0.05f : s->hand_y) + 0.5f * (float)height / c.scale;
    for (i = 0; i < 8; i++) {
        for (k = 0; k < 3; k++) {
            colour[i][k] = fminf(palette[i][k] * s->light, 255.0f);
        }
    }
    for (j = 0; j < height; j++) { /* table: tiles, bluer to the right and greener upwards; dark outside */
        float y = c.top - ((float)j + 0.5f) / c.scale;
        for (i = 0; i < width; i++) {
            float    x = c.left + ((float)i + 0.5f) / c.scale;
            uint8_t *p = rgb + ((size_t)j * (size_t)width + (size_t)i) * 3;
            float    in = fabsf(x) < 1.0f && fabsf(y) < 1.0f ? s->light : 0.35f;
            float    tile = (((int)floorf(x * 4.0f + 16.0f) + (int)floorf(y * 4.0f + 16.0f)) & 1) ? 8.0f : 0.0f;
            float    cx = fminf(fmaxf(x, -1.0f), 1.0f), cy = fminf(fmaxf(y, -1.0f), 1.0f);
            p[0] = (uint8_t)((96.0f + tile) * in);
            p[1] = (uint8_t)((112.0f + 40.0f * cy + tile) * in);
            p[2] = (uint8_t)((104.0f + 40.0f * cx + tile) * in);
        }
    }
    conveyor_capsule(&c, -CONVEYOR_RAIL_X, CONVEYOR_RAIL_Y, CONVEYOR_RAIL_X, CONVEYOR_RAIL_Y, 0.045f, colour[0]);
    conveyor_capsule(&c, s->obstacle_x, s->obstacle_y, s->obstacle_x, s->obstacle_y, s->obstacle_r, colour[1]);
    conveyor_capsule(&c, s->obstacle_x, s->obstacle_y, s->obstacle_x, s->obstacle_y, s->obstacle_r * 0.72f, colour[2]);
    conveyor_capsule(&c, s->puck_x, CONVEYOR_RAIL_Y, s->puck_x, CONVEYOR_RAIL_Y, CONVEYOR_PUCK_R, colour[4]);
    conveyor_capsule(&c, s->puck_x, CONVEYOR_RAIL_Y, s->puck_x, CONVEYOR_RAIL_Y, CONVEYOR_PUCK_R * 0.78f, colour[3]);
    if (camera == 0) { /* the arm, elbow to the right; the hand camera sits below it */
        float rx = s->hand_x, ry = s->hand_y - CONVEYOR_BASE_Y, d2 = rx * rx + ry * ry, d = sqrtf(d2);
        float h = sqrtf(fmaxf(CONVEYOR_LINK * CONVEYOR_LINK - 0.25f * d2, 0.0f));
        float ex = 0.5f * rx + h * ry / d, ey = CONVEYOR_BASE_Y + 0.5f * ry - h * rx / d;
        conveyor_capsule(&c, 0.0f, CONVEYOR_BASE_Y, ex, ey, 0.040f, colour[5]);
        conveyor_capsule(&c, ex, ey, s->hand_x, s->hand_y, 0.030f, colour[5]);
        conveyor_capsule(&c, ex, ey, ex, ey, 0.055f, colour[7]);
    }
    conveyor_capsule(&c, s->hand_x, s->hand_y, s->hand_x, s->hand_y, CONVEYOR_HAND_R, colour[6]);
    spread = s->closed ? 0.035f : 0.075f;
    for (k = -1; k <= 1; k += 2) {
        float fx = s->hand_x + (float)k * spread;
        conveyor_capsule(&c, fx, s->hand_y, fx, s->hand_y + 0.09f, 0.018f, colour[7]);
    }
}

/* What the policy gets: the scene, or a white picture if this tick's frame was lost. */
CONVEYOR_API void conveyor_picture(const conveyor_sim *s, int camera, int width, int height, uint8_t *rgb) {
    if (s->lost[camera]) {
        memset(rgb, 255, (size_t)width * (size_t)height * 3);
    } else {
        conveyor_render(s, camera, width, height, rgb);
    }
}

/* ------------------------------------------------------------------------------------------ for use from other languages */

CONVEYOR_API int conveyor_size(void) {
    return (int)sizeof(conveyor_sim);
}

/* Render n states; lossy: with the frames they lost. rgb [n][height][width][3] */
CONVEYOR_API void conveyor_render_many(const conveyor_sim *s, int n, int camera, int width, int height, int lossy,
                                       uint8_t *rgb) {
    int i;
    for (i = 0; i < n; i++) {
        uint8_t *p = rgb + (size_t)i * (size_t)height * (size_t)width * 3;
        if (lossy) {
            conveyor_picture(s + i, camera, width, height, p);
        } else {
            conveyor_render(s + i, camera, width, height, p);
        }
    }
}

/* Numbers of an episode: tick, status, passed side, hand x, y, puck x, obstacle x, y, radius. */
CONVEYOR_API void conveyor_report(const conveyor_sim *s, float *out) {
    out[0] = (float)s->tick;
    out[1] = (float)s->status;
    out[2] = (float)s->passed;
    out[3] = s->hand_x;
    out[4] = s->hand_y;
    out[5] = s->puck_x;
    out[6] = s->obstacle_x;
    out[7] = s->obstacle_y;
    out[8] = s->obstacle_r;
}

#endif
