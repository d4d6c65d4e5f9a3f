/* Two translation units: this one only uses it. */
#include "mail.h"

size_t way_points(void);

size_t way_points(void) {
    const float from[1] = { 0 }, to[1] = { 2 };
    float       out[4];
    return mail_trajectory(out, 4, from, to, 1, 1.0f);
}
