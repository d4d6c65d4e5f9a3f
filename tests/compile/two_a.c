/* Two translation units: this one carries the implementation. */
#define MAIL_IMPLEMENTATION
#include "mail.h"

size_t way_points(void);

int main(void) {
    mail_options o = mail_options_init();
    return way_points() == 2 && o.weights == MAIL_WEIGHTS_F32 ? 0 : 1;
}
