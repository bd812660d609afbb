/* Multiply-adds on registers alone, as many at a time as a core can have under way: the arithmetic
   limit of one thread. Each peak_* runs `steps` times and returns the operations it did, two for a
   multiply-add; 0 where the processor has no instruction for it. */

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define REGISTER "v"
#elif defined(__aarch64__)
#include <arm_neon.h>
#define REGISTER "w"
#endif

/* More sums than a multiply-add's latency times those that begin in a cycle, fewer than registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define SUMS 24
#else
#define SUMS 12
#endif

/* The compiler must neither foresee the values nor leave a step out. */
#define LOOP(vector, step, operations)                           \
    vector sums[SUMS] = {0}, a = {0}, b = {0};                   \
    __asm__ volatile("" : "+" REGISTER(a), "+" REGISTER(b));     \
    for (int64_t n = 0; n < steps; n++) {                        \
        _Pragma("clang loop unroll(full)")                       \
        for (int i = 0; i < SUMS; i++) {                         \
            sums[i] = step;                                      \
            __asm__ volatile("" : "+" REGISTER(sums[i]));        \
        }                                                        \
    }                                                            \
    return (double)steps * SUMS * (operations)

double peak_float32(int64_t steps) {
#if defined(__AVX512F__)
    LOOP(__m512, _mm512_fmadd_ps(a, b, sums[i]), 2 * 16);
#elif defined(__FMA__)
    LOOP(__m256, _mm256_fmadd_ps(a, b, sums[i]), 2 * 8);
#elif defined(__x86_64__)
    LOOP(__m128, _mm_add_ps(_mm_mul_ps(a, b), sums[i]), 2 * 4);
#elif defined(__aarch64__)
    LOOP(float32x4_t, vfmaq_f32(sums[i], a, b), 2 * 4);
#else
    return 0.0 * steps;
#endif
}

double peak_bfloat16(int64_t steps) {
#if defined(__AVX512BF16__)
    LOOP(__m512, (__m512)_mm512_dpbf16_ps(sums[i], (__m512bh)a, (__m512bh)b), 2 * 32);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    LOOP(float32x4_t,
         vbfmmlaq_f32(sums[i], vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b)), 2 * 16);
#else
    return 0.0 * steps;
#endif
}

double peak_int8(int64_t steps) {
#if defined(__AVX512VNNI__)
    LOOP(__m512i, _mm512_dpbusd_epi32(sums[i], a, b), 2 * 64);
#elif defined(__AVXVNNI__)
    LOOP(__m256i, _mm256_dpbusd_avx_epi32(sums[i], a, b), 2 * 32);
#elif defined(__ARM_FEATURE_MATMUL_INT8)
    LOOP(int32x4_t, vmmlaq_s32(sums[i], (int8x16_t)a, (int8x16_t)b), 2 * 32);
#elif defined(__ARM_FEATURE_DOTPROD)
    LOOP(int32x4_t, vdotq_s32(sums[i], (int8x16_t)a, (int8x16_t)b), 2 * 16);
#else
    return 0.0 * steps;
#endif
}
