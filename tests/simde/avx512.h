/* The AVX-512 and AVX-VNNI kernels on a processor that has only AVX2: compiled with  -include tests/simde/avx512.h -mavx2 -mfma -Wno-psabi
   the library's AVX-512 pass and AVX2's products of 8 bits are made of SIMDe's portable versions of the intrinsics
   (https://github.com/simd-everywhere/simde, Debian's libsimde-dev), and the library believes that the processor has AVX-512, its VNNI
   included, and AVX-VNNI. tests/extra_simde.sh runs the tests so.

   What this cannot show: how fast the kernels are, whether the compiler's own AVX-512 code is right, and which set a processor is
   found to have; the last is what `tests/emulation.sh cpu` is for. */
#ifndef MAIL_TESTS_SIMDE_AVX512_H
#define MAIL_TESTS_SIMDE_AVX512_H

#include <immintrin.h>
#include <cpuid.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#include <simde/x86/avx512.h>
#pragma GCC diagnostic pop

/* No function may be compiled for more than the command line says: the vectors of 512 bits then are pairs of AVX2's. */
#define target(sets)
/* see mailp_cpu, MAILP_HAS_AVX_VNNI and MAILP_IN_PLACE in mail.h */
#define MAILP_EMULATED_AVX512

typedef union {
    __m512  f;
    __m512i i;
    __m256  half_f[2];
    __m256i half_i[2];
    __m128i quarter_i[4];
    float   lane_f[16];
    uint32_t lane_u[16];
} simde512;

/* ---- what SIMDe 0.7.4 lacks, in halves of AVX2 or lane by lane --------------------------------------------------------- */

static inline __m512 simde512_cvtepi32_ps(__m512i a) {
    simde512 x, y;
    x.i         = a;
    y.half_f[0] = _mm256_cvtepi32_ps(x.half_i[0]);
    y.half_f[1] = _mm256_cvtepi32_ps(x.half_i[1]);
    return y.f;
}

static inline __m512i simde512_cvtps_epi32(__m512 a) {
    simde512 x, y;
    x.f         = a;
    y.half_i[0] = _mm256_cvtps_epi32(x.half_f[0]);
    y.half_i[1] = _mm256_cvtps_epi32(x.half_f[1]);
    return y.i;
}

static inline __m512i simde512_cvtepi8_epi32(__m128i a) {
    simde512 y;
    y.half_i[0] = _mm256_cvtepi8_epi32(a);
    y.half_i[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8));
    return y.i;
}

static inline __m512i simde512_cvtepu16_epi32(__m256i a) {
    simde512 y;
    y.half_i[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(a));
    y.half_i[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1));
    return y.i;
}

/* unsigned saturation: a negative number counts as a large one */
static inline __m128i simde512_cvtusepi32_epi8(__m512i a) {
    simde512 x;
    uint8_t  to[16];
    int      i;
    x.i = a;
    for (i = 0; i < 16; i++) {
        to[i] = (uint8_t)(x.lane_u[i] > 255 ? 255 : x.lane_u[i]);
    }
    return _mm_loadu_si128((const __m128i *)(const void *)to);
}

/* signed saturation */
static inline __m256i simde512_cvtsepi32_epi16(__m512i a) {
    simde512 x;
    x.i = a;
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.half_i[0], x.half_i[1]), 0xd8);
}

static inline __m512i simde512_cvtepi8_epi16(__m256i a) {
    simde512 y;
    y.half_i[0] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(a));
    y.half_i[1] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(a, 1));
    return y.i;
}

/* a - floor(a), the only mode used; 0 for both infinities, as the instruction has it */
static inline __m512 simde512_reduce_floor_ps(__m512 a) {
    simde512 x, y;
    int      i;
    x.f         = a;
    y.half_f[0] = _mm256_sub_ps(x.half_f[0], _mm256_floor_ps(x.half_f[0]));
    y.half_f[1] = _mm256_sub_ps(x.half_f[1], _mm256_floor_ps(x.half_f[1]));
    for (i = 0; i < 16; i++) {
        y.lane_f[i] = (x.lane_u[i] & 0x7fffffff) == 0x7f800000 ? 0.0f : y.lane_f[i];
    }
    return y.f;
}

#undef _mm512_cvtepi32_ps
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtusepi32_epi8
#undef _mm512_cvtsepi32_epi16
#undef _mm512_cvtepi8_epi16
#undef _mm512_reduce_ps
#undef _mm256_dpbusd_avx_epi32
#undef _mm256_dpwssd_avx_epi32
#define _mm512_cvtepi32_ps(a)     simde512_cvtepi32_ps(a)
#define _mm512_cvtps_epi32(a)     simde512_cvtps_epi32(a)
#define _mm512_cvtepi8_epi32(a)   simde512_cvtepi8_epi32(a)
#define _mm512_cvtepu16_epi32(a)  simde512_cvtepu16_epi32(a)
#define _mm512_cvtusepi32_epi8(a) simde512_cvtusepi32_epi8(a)
#define _mm512_cvtsepi32_epi16(a) simde512_cvtsepi32_epi16(a)
#define _mm512_cvtepi8_epi16(a)   simde512_cvtepi8_epi16(a)
#define _mm512_reduce_ps(a, mode) ((mode) == 0x09 ? simde512_reduce_floor_ps(a) : _mm512_setzero_ps())
#define _mm256_dpbusd_avx_epi32(s, a, b) simde_mm256_dpbusd_epi32(s, a, b)
#define _mm256_dpwssd_avx_epi32(s, a, b) simde_mm256_dpwssd_epi32(s, a, b)

#endif
