/* Sums and means: what an aggregation remembers of a group, as reference/accumulators.py defines it, with the same
bytes where it is encoded. An accumulator is some words of a payload; all zero is the one of nothing.

Sums of integers: how many values, and a total of 128 bits in two words.

Sums of floats are exact. A float is an integer times 2^-1074, and so is the total, with at most about 2,200 bits, in
limbs of 64 bits (two's complement). Most groups need three limbs next to one another (values from some 2^-60 to
2^70), so an accumulator has a window: three limbs, and which limb of the whole the first of them is. A total that
does not fit, and infinities and NaN, which are counted and no part of the total, move to memory of their own with all
limbs (spilt). The total is rounded once, when it is read: half to even. */

#ifndef DZ_SUMS_H
#define DZ_SUMS_H

#include "core.h"

/* What reading an accumulator comes to. */
enum { DZ_SUM_VALUE, DZ_SUM_NULL, DZ_SUM_OVERFLOW };

#define DZ_TOTAL_BYTES_MAX 300u /* of an encoded total; see reference/accumulators.py */
#define DZ_SUM_BYTES_MAX 384u   /* no accumulator is encoded in more */
#define DZ_LIMBS 40u            /* any encoded total, many times */

/* ---- bytes ---------------------------------------------------------------------------------------------------- */

/* Writes a total in as few bytes as it takes (of 0: none); how many. */
static inline size_t dz_encode_limbs(const uint64_t *limbs, uint32_t count, char *out)
{
    uint64_t sign = (int64_t)limbs[count - 1] < 0 ? UINT64_MAX : 0;
    while (count && limbs[count - 1] == sign) count--;
    size_t length = (size_t)count * 8;
    memcpy(out, limbs, length);
    while (length && (uint8_t)out[length - 1] == (uint8_t)sign) length--;
    bool lacks_sign = length ? ((uint8_t)out[length - 1] >> 7) != (uint8_t)(sign & 1) : sign != 0;
    if (lacks_sign) out[length++] = (char)sign;
    return length;
}

/* Reads a total that was written like that into all limbs. */
static inline void dz_decode_limbs(dz_base *base, const char *bytes, size_t length, uint64_t *limbs, uint32_t count)
{
    if (length > DZ_TOTAL_BYTES_MAX) {
        char message[96];
        snprintf(message, sizeof message, "a partial sum of %zu bytes; no sum takes more than %u", length,
                 DZ_TOTAL_BYTES_MAX);
        dz_raise(base, DZ_MALFORMED, message);
    }
    memset(limbs, length && (uint8_t)bytes[length - 1] >> 7 ? 0xff : 0, (size_t)count * 8);
    if (length) memcpy(limbs, bytes, length);
}

/* Refuses an encoded accumulator whose part of fixed size is not there. */
static inline void dz_check_size(dz_base *base, size_t length, size_t size, bool exactly)
{
    if (length == size || (length > size && !exactly)) return;
    char message[96];
    snprintf(message, sizeof message, "a partial aggregation of %zu bytes where %zu were expected", length, size);
    dz_raise(base, DZ_MALFORMED, message);
}

/* ---- counts --------------------------------------------------------------------------------------------------- */

/* The words of a count. */
enum { DZ_COUNT_WORDS = 1 };

/* Adds to a number of values. */
static inline void dz_count_add(dz_base *base, uint64_t *count, int64_t weight)
{
    *count = (uint64_t)dz_add_weights(base, (int64_t)*count, weight);
}

/* Takes in an encoded count, so many times. */
static inline void dz_count_merge(dz_base *base, uint64_t *count, const char *bytes, size_t length, int64_t weight)
{
    dz_check_size(base, length, 8, true);
    dz_count_add(base, count, dz_multiply_weights(base, (int64_t)dz_load_word(bytes), weight));
}

/* Writes a count; how many bytes. */
static inline size_t dz_count_encode(const uint64_t *count, char *out)
{
    memcpy(out, count, 8);
    return 8;
}

/* ---- sums of integers ----------------------------------------------------------------------------------------- */

/* The words of a sum of integers. */
enum { DZ_INT_SUM_COUNT, DZ_INT_SUM_LOW, DZ_INT_SUM_HIGH, DZ_INT_SUM_WORDS };

static inline __int128 dz_int_sum_total(const uint64_t *sum)
{
    return (__int128)((unsigned __int128)sum[DZ_INT_SUM_HIGH] << 64 | sum[DZ_INT_SUM_LOW]);
}

/* Adds to the total. */
static inline void dz_int_sum_add_total(dz_base *base, uint64_t *sum, __int128 change)
{
    __int128 total;
    if (DZ_UNLIKELY(__builtin_add_overflow(dz_int_sum_total(sum), change, &total)))
        dz_raise(base, DZ_OVERFLOW, "a sum beyond 128 bits");
    sum[DZ_INT_SUM_LOW] = (uint64_t)total;
    sum[DZ_INT_SUM_HIGH] = (uint64_t)((unsigned __int128)total >> 64);
}

/* Takes in a value so many times. */
static inline void dz_int_sum_add(dz_base *base, uint64_t *sum, int64_t value, int64_t weight)
{
    dz_count_add(base, &sum[DZ_INT_SUM_COUNT], weight);
    dz_int_sum_add_total(base, sum, (__int128)value * weight);
}

/* Takes in an encoded sum so many times. */
static inline void dz_int_sum_merge(dz_base *base, uint64_t *sum, const char *bytes, size_t length, int64_t weight)
{
    dz_check_size(base, length, 8, false);
    uint64_t limbs[DZ_LIMBS];
    dz_decode_limbs(base, bytes + 8, length - 8, limbs, DZ_LIMBS);
    uint64_t sign = (int64_t)limbs[1] < 0 ? UINT64_MAX : 0;
    for (uint32_t limb = 2; limb < DZ_LIMBS; limb++)
        if (limbs[limb] != sign) dz_raise(base, DZ_MALFORMED, "a partial sum of integers beyond 128 bits");
    __int128 total = (__int128)((unsigned __int128)limbs[1] << 64 | limbs[0]);
    if (__builtin_mul_overflow(total, (__int128)weight, &total)) dz_raise(base, DZ_OVERFLOW, "a sum beyond 128 bits");
    dz_count_merge(base, &sum[DZ_INT_SUM_COUNT], bytes, 8, weight);
    dz_int_sum_add_total(base, sum, total);
}

/* Writes a sum; how many bytes. */
static inline size_t dz_int_sum_encode(const uint64_t *sum, char *out)
{
    return dz_count_encode(sum, out) + dz_encode_limbs(sum + DZ_INT_SUM_LOW, 2, out + 8);
}

/* Whether it is the sum of nothing. */
static inline bool dz_int_sum_is_nothing(const uint64_t *sum)
{
    return (sum[0] | sum[1] | sum[2]) == 0;
}

/* The sum: null of no values, and an overflow if it does not fit 64 bits. */
static inline int dz_int_sum_result(const uint64_t *sum, uint64_t *out)
{
    *out = 0;
    if (sum[DZ_INT_SUM_COUNT] == 0) return DZ_SUM_NULL;
    if (sum[DZ_INT_SUM_HIGH] != ((int64_t)sum[DZ_INT_SUM_LOW] < 0 ? UINT64_MAX : 0)) return DZ_SUM_OVERFLOW;
    *out = sum[DZ_INT_SUM_LOW];
    return DZ_SUM_VALUE;
}

/* The bits of a float as columns have it: one NaN, no -0.0. */
static inline uint64_t dz_float_word(double value)
{
    uint64_t word;
    if (value != value) return DZ_NAN_BITS;
    if (value == 0) return 0;
    memcpy(&word, &value, 8);
    return word;
}

/* The mean: the total as a float, by `unit` (10 to the scale of decimals, else 1), by the count. */
static inline int dz_int_mean_result(const uint64_t *sum, double unit, uint64_t *out)
{
    *out = 0;
    if (sum[DZ_INT_SUM_COUNT] == 0) return DZ_SUM_NULL;
    *out = dz_float_word((double)dz_int_sum_total(sum) / unit / (double)(int64_t)sum[DZ_INT_SUM_COUNT]);
    return DZ_SUM_VALUE;
}

/* ---- sums of floats ------------------------------------------------------------------------------------------- */

/* The words of a sum of floats. The second: where its window begins, if below DZ_LIMBS; else it points to what is
   spilt, and the window is not used. */
enum { DZ_FLOAT_SUM_COUNT, DZ_FLOAT_SUM_WHERE, DZ_FLOAT_SUM_LIMBS, DZ_FLOAT_SUM_WORDS = DZ_FLOAT_SUM_LIMBS + 3 };

/* A sum that does not fit the window. */
typedef struct {
    int64_t positive_infinity, negative_infinity, nan;
    uint64_t limbs[DZ_LIMBS];
} dz_spilt;

/* What is spilt; NULL: nothing is. */
static inline dz_spilt *dz_float_sum_spilt(const uint64_t *sum)
{
    uint64_t where = sum[DZ_FLOAT_SUM_WHERE];
    return where < DZ_LIMBS ? NULL : (dz_spilt *)(uintptr_t)where;
}

/* Adds or, `negative`, subtracts limbs, of which the lower are given, at limb `at` of all. */
static inline void dz_add_limbs(uint64_t *limbs, uint32_t at, const uint64_t *change, uint32_t count, bool negative)
{
    uint64_t carry = negative, flip = negative ? UINT64_MAX : 0;
    for (uint32_t limb = at; limb < DZ_LIMBS; limb++) {
        uint64_t word = (limb - at < count ? change[limb - at] : 0) ^ flip, sum = limbs[limb] + word;
        uint64_t over = sum < word;
        limbs[limb] = sum + carry;
        carry = over | (limbs[limb] < carry);
    }
}

/* All limbs of the total. */
static inline void dz_float_sum_limbs(const uint64_t *sum, uint64_t *limbs)
{
    const dz_spilt *spilt = dz_float_sum_spilt(sum);
    if (spilt) {
        memcpy(limbs, spilt->limbs, sizeof spilt->limbs);
        return;
    }
    uint32_t at = (uint32_t)sum[DZ_FLOAT_SUM_WHERE];
    memset(limbs, 0, (size_t)at * 8);
    memset(limbs + at, (int64_t)sum[DZ_FLOAT_SUM_LIMBS + 2] < 0 ? 0xff : 0, (size_t)(DZ_LIMBS - at) * 8);
    memcpy(limbs + at, sum + DZ_FLOAT_SUM_LIMBS, 24);
}

/* Moves the sum to memory of its own, if it is not there yet. */
static dz_spilt *dz_float_sum_spill(dz_base *base, uint64_t *sum)
{
    dz_spilt *spilt = dz_float_sum_spilt(sum);
    if (spilt) return spilt;
    spilt = dz_alloc_zeroed(base, sizeof *spilt);
    dz_float_sum_limbs(sum, spilt->limbs);
    sum[DZ_FLOAT_SUM_WHERE] = (uint64_t)(uintptr_t)spilt;
    return spilt;
}

/* Gives back what is spilt; the sum is that of nothing then. */
static inline void dz_float_sum_free(dz_base *base, uint64_t *sum)
{
    dz_free_memory(base, dz_float_sum_spilt(sum), sizeof(dz_spilt));
    memset(sum, 0, DZ_FLOAT_SUM_WORDS * 8);
}

/* Makes these limbs the total: in the window if it can be, which then begins at limb `wish` or below if that can be.
   */
static void dz_float_sum_store(dz_base *base, uint64_t *sum, const uint64_t *limbs, uint32_t wish)
{
    dz_spilt *spilt = dz_float_sum_spilt(sum);
    if (!spilt) {
        uint64_t sign = (int64_t)limbs[DZ_LIMBS - 1] < 0 ? UINT64_MAX : 0;
        uint32_t first = 0, end = DZ_LIMBS;
        while (first < DZ_LIMBS && limbs[first] == 0) first++;
        while (end && limbs[end - 1] == sign) end--;
        if (end < DZ_LIMBS && (end ? limbs[end - 1] >> 63 : 0) != (sign & 1)) end++; /* the sign is part of it */
        uint32_t at = first < wish ? first : wish + 3 >= end ? wish : first;
        if (at > DZ_LIMBS - 3) at = DZ_LIMBS - 3;
        if (at + 3 >= end) {
            sum[DZ_FLOAT_SUM_WHERE] = at;
            memcpy(sum + DZ_FLOAT_SUM_LIMBS, limbs + at, 24);
            return;
        }
        spilt = dz_float_sum_spill(base, sum);
    }
    memcpy(spilt->limbs, limbs, sizeof spilt->limbs);
}

/* Adds three limbs at limb `at`, where the window does not do. */
__attribute__((noinline)) static void dz_float_sum_add_slowly(dz_base *base, uint64_t *sum, uint32_t at,
                                                              const uint64_t change[3], bool negative)
{
    dz_spilt *spilt = dz_float_sum_spilt(sum);
    if (spilt) {
        dz_add_limbs(spilt->limbs, at, change, 3, negative);
        return;
    }
    uint64_t limbs[DZ_LIMBS];
    dz_float_sum_limbs(sum, limbs);
    dz_add_limbs(limbs, at, change, 3, negative);
    dz_float_sum_store(base, sum, limbs, at);
}

/* Counts an infinity or a NaN. */
__attribute__((noinline)) static void dz_float_sum_add_special(dz_base *base, uint64_t *sum, uint64_t word,
                                                               int64_t weight)
{
    dz_spilt *spilt = dz_float_sum_spill(base, sum);
    int64_t *count = word << 12 ? &spilt->nan : word >> 63 ? &spilt->negative_infinity : &spilt->positive_infinity;
    *count = dz_add_weights(base, *count, weight);
}

/* Takes in a float (its bits) so many times, exactly. */
static inline void dz_float_sum_add(dz_base *base, uint64_t *sum, uint64_t word, int64_t weight)
{
    dz_count_add(base, &sum[DZ_FLOAT_SUM_COUNT], weight);
    uint32_t exponent = (uint32_t)(word >> 52) & 0x7ff;
    if (DZ_UNLIKELY(exponent == 0x7ff)) {
        dz_float_sum_add_special(base, sum, word, weight);
        return;
    }
    uint64_t mantissa = (word & 0xfffffffffffffu) | (exponent ? (uint64_t)1 << 52 : 0);
    uint32_t bit = exponent ? exponent - 1 : 0, at = bit / 64, shift = bit % 64;
    bool negative = (word >> 63) != (weight < 0);
    unsigned __int128 product = (unsigned __int128)mantissa * (weight < 0 ? -(uint64_t)weight : (uint64_t)weight);
    uint64_t low = (uint64_t)product, high = (uint64_t)(product >> 64);
    uint64_t change[3] = {low << shift, high << shift, 0};
    if (shift) {
        change[1] |= low >> (64 - shift);
        change[2] = high >> (64 - shift);
    }
    uint64_t where = sum[DZ_FLOAT_SUM_WHERE], placed[3] = {change[0], change[1], change[2]};
    bool fits = at == where;
    if (at == where + 1) {
        fits = change[2] == 0 && (int64_t)change[1] >= 0;
        placed[2] = change[1], placed[1] = change[0], placed[0] = 0;
    } else if (at == where + 2) {
        fits = (change[2] | change[1]) == 0 && (int64_t)change[0] >= 0;
        placed[2] = change[0], placed[1] = placed[0] = 0;
    }
    if (DZ_LIKELY(fits)) {
        uint64_t *limbs = sum + DZ_FLOAT_SUM_LIMBS, flip = negative ? UINT64_MAX : 0;
        unsigned __int128 first = (unsigned __int128)limbs[0] + (placed[0] ^ flip) + negative;
        unsigned __int128 second = (unsigned __int128)limbs[1] + (placed[1] ^ flip) + (uint64_t)(first >> 64);
        uint64_t top = placed[2] ^ flip, third = limbs[2] + top + (uint64_t)(second >> 64);
        if (DZ_LIKELY((int64_t)((third ^ limbs[2]) & (third ^ top)) >= 0)) { /* no overflow of the window */
            limbs[0] = (uint64_t)first, limbs[1] = (uint64_t)second, limbs[2] = third;
            return;
        }
    }
    if (mantissa == 0 || weight == 0) return;
    dz_float_sum_add_slowly(base, sum, at, change, negative);
}

/* Takes in an encoded sum so many times. */
static inline void dz_float_sum_merge(dz_base *base, uint64_t *sum, const char *bytes, size_t length, int64_t weight)
{
    dz_check_size(base, length, 32, false);
    uint64_t given[DZ_LIMBS], limbs[DZ_LIMBS];
    dz_decode_limbs(base, bytes + 32, length - 32, given, DZ_LIMBS);
    dz_count_merge(base, &sum[DZ_FLOAT_SUM_COUNT], bytes, 8, weight);
    if (dz_load_word(bytes + 8) | dz_load_word(bytes + 16) | dz_load_word(bytes + 24)) {
        dz_spilt *spilt = dz_float_sum_spill(base, sum);
        dz_count_merge(base, (uint64_t *)&spilt->positive_infinity, bytes + 8, 8, weight);
        dz_count_merge(base, (uint64_t *)&spilt->negative_infinity, bytes + 16, 8, weight);
        dz_count_merge(base, (uint64_t *)&spilt->nan, bytes + 24, 8, weight);
    }
    if (length == 32) return;
    /* The product: of the magnitude of the weight and the limbs as they are, taken as a number without a sign, of which
       the part beyond the last limb is left away, which is right in two's complement. */
    uint64_t times = weight < 0 ? -(uint64_t)weight : (uint64_t)weight, carry = 0;
    uint32_t first = 0;
    while (first < DZ_LIMBS - 1 && given[first] == 0) first++;
    for (uint32_t limb = first; limb < DZ_LIMBS; limb++) {
        unsigned __int128 product = (unsigned __int128)given[limb] * times + carry;
        given[limb] = (uint64_t)product;
        carry = (uint64_t)(product >> 64);
    }
    dz_float_sum_limbs(sum, limbs);
    dz_add_limbs(limbs, 0, given, DZ_LIMBS, weight < 0);
    dz_float_sum_store(base, sum, limbs, first);
}

/* Writes a sum; how many bytes. */
static inline size_t dz_float_sum_encode(const uint64_t *sum, char *out)
{
    const dz_spilt *spilt = dz_float_sum_spilt(sum);
    memset(out, 0, 32);
    memcpy(out, &sum[DZ_FLOAT_SUM_COUNT], 8);
    if (spilt) {
        memcpy(out + 8, &spilt->positive_infinity, 24);
        return 32 + dz_encode_limbs(spilt->limbs, DZ_LIMBS, out + 32);
    }
    const uint64_t *limbs = sum + DZ_FLOAT_SUM_LIMBS;
    if ((limbs[0] | limbs[1] | limbs[2]) == 0) return 32;
    size_t below = (size_t)sum[DZ_FLOAT_SUM_WHERE] * 8;
    memset(out + 32, 0, below);
    return 32 + below + dz_encode_limbs(limbs, 3, out + 32 + below);
}

/* Whether the total is 0. */
static inline bool dz_float_sum_total_is_zero(const uint64_t *sum)
{
    const dz_spilt *spilt = dz_float_sum_spilt(sum);
    const uint64_t *limbs = spilt ? spilt->limbs : sum + DZ_FLOAT_SUM_LIMBS;
    uint64_t any = 0;
    for (uint32_t limb = 0; limb < (spilt ? DZ_LIMBS : 3); limb++) any |= limbs[limb];
    return any == 0;
}

/* Whether it is the sum of nothing. */
static inline bool dz_float_sum_is_nothing(const uint64_t *sum)
{
    const dz_spilt *spilt = dz_float_sum_spilt(sum);
    bool special = spilt && (spilt->positive_infinity || spilt->negative_infinity || spilt->nan);
    return sum[DZ_FLOAT_SUM_COUNT] == 0 && !special && dz_float_sum_total_is_zero(sum);
}

/* The bits of the float nearest to limbs, the first of which is limb `at` of all; half to even. */
static inline uint64_t dz_round_limbs(const uint64_t *limbs, uint32_t count, uint32_t at)
{
    uint64_t magnitude[DZ_LIMBS], sign = limbs[count - 1] >> 63, carry = sign;
    for (uint32_t limb = 0; limb < count; limb++) {
        magnitude[limb] = (sign ? ~limbs[limb] : limbs[limb]) + carry;
        carry = carry && magnitude[limb] == 0;
    }
    uint32_t top = count;
    while (top && magnitude[top - 1] == 0) top--;
    if (top == 0) return 0;
    uint32_t bits = top * 64 - (uint32_t)__builtin_clzll(magnitude[top - 1]); /* of these limbs; `at` * 64 are below */
    uint32_t all_bits = bits + at * 64;
    if (all_bits <= 53) return sign << 63 | magnitude[0]; /* at is 0: subnormal, or with the smallest exponent */
    if (all_bits - 52 >= 0x7ff) return sign << 63 | (uint64_t)0x7ff << 52;
    uint64_t word;
    if (bits <= 53) {
        word = magnitude[0] << (53 - bits); /* exact */
    } else {
        uint32_t shift = bits - 53, limb = shift / 64, within = shift % 64;
        word = magnitude[limb] >> within;
        if (within && limb + 1 < top) word |= magnitude[limb + 1] << (64 - within);
        word &= ((uint64_t)1 << 53) - 1;
        uint32_t half_limb = (shift - 1) / 64, half_bit = (shift - 1) % 64;
        bool half = magnitude[half_limb] >> half_bit & 1;
        uint64_t below = magnitude[half_limb] & (((uint64_t)1 << half_bit) - 1);
        for (uint32_t lower = 0; lower < half_limb; lower++) below |= magnitude[lower];
        if (half && (below || (word & 1))) word++; /* may become 2^53, which the next line makes the next exponent */
    }
    return sign << 63 | (((uint64_t)(all_bits - 53) << 52) + word);
}

/* The bits of the float nearest to the exact sum. */
static inline uint64_t dz_float_sum_rounded(const uint64_t *sum)
{
    const dz_spilt *spilt = dz_float_sum_spilt(sum);
    if (!spilt) return dz_round_limbs(sum + DZ_FLOAT_SUM_LIMBS, 3, (uint32_t)sum[DZ_FLOAT_SUM_WHERE]);
    if (spilt->nan || (spilt->positive_infinity && spilt->negative_infinity)) return DZ_NAN_BITS;
    if (spilt->positive_infinity) return (uint64_t)0x7ff << 52;
    if (spilt->negative_infinity) return (uint64_t)0xfff << 52;
    return dz_round_limbs(spilt->limbs, DZ_LIMBS, 0);
}

/* The sum: null of no values. */
static inline int dz_float_sum_result(const uint64_t *sum, uint64_t *out)
{
    *out = 0;
    if (sum[DZ_FLOAT_SUM_COUNT] == 0) return DZ_SUM_NULL;
    *out = dz_float_sum_rounded(sum);
    return DZ_SUM_VALUE;
}

/* The mean: the rounded sum by the count. */
static inline int dz_float_mean_result(const uint64_t *sum, uint64_t *out)
{
    *out = 0;
    if (sum[DZ_FLOAT_SUM_COUNT] == 0) return DZ_SUM_NULL;
    uint64_t word = dz_float_sum_rounded(sum);
    double total;
    memcpy(&total, &word, 8);
    *out = dz_float_word(total / (double)(int64_t)sum[DZ_FLOAT_SUM_COUNT]);
    return DZ_SUM_VALUE;
}

#endif
