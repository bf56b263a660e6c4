/* Numbers as decimal digits and back, as Python has it: the shortest digits that read back as the same float, reading
   rounded to the nearest float, rounding to so many places, all exact. Nothing here looks at the locale.

Floats are m times a power of two, and digits a question of whole numbers that may have eleven hundred bits; `dz_big` is
such a number. The usual cases get by with a word. */

#ifndef DZ_DIGITS_H
#define DZ_DIGITS_H

#include "core.h"

#include <math.h>

/* The powers of ten that fit a word. */
static const uint64_t dz_powers_of_ten[] = {
    1u, 10u, 100u, 1000u, 10000u, 100000u, 1000000u, 10000000u, 100000000u, 1000000000u, 10000000000u, 100000000000u,
    1000000000000u, 10000000000000u, 100000000000000u, 1000000000000000u, 10000000000000000u, 100000000000000000u,
    1000000000000000000u, 10000000000000000000u,
};

/* The powers of ten that are floats. */
static const double dz_float_powers_of_ten[] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

/* ---- big numbers ---------------------------------------------------------------------------------------------- */

#define DZ_BIG_LIMBS 40

/* A whole number below 2^1280, the lowest limb first; those from `used` on are none of it. */
typedef struct {
    uint32_t limbs[DZ_BIG_LIMBS];
    uint32_t used;
} dz_big;

/* `word` times two to the power of `shift`. */
static void dz_big_set(dz_big *number, uint64_t word, uint32_t shift)
{
    uint32_t zeros = shift / 32, bits = shift % 32;
    unsigned __int128 shifted = (unsigned __int128)word << bits;
    memset(number->limbs, 0, zeros * sizeof(uint32_t));
    for (number->used = zeros; shifted; shifted >>= 32) number->limbs[number->used++] = (uint32_t)shifted;
}

/* Multiplies by a small number that is not 0. */
static void dz_big_multiply(dz_big *number, uint32_t factor)
{
    uint64_t carry = 0;
    for (uint32_t at = 0; at < number->used; at++) {
        carry += (uint64_t)number->limbs[at] * factor;
        number->limbs[at] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry) number->limbs[number->used++] = (uint32_t)carry;
}

/* Multiplies by a power of ten. */
static void dz_big_scale(dz_big *number, uint32_t power)
{
    for (; power >= 9; power -= 9) dz_big_multiply(number, 1000000000u);
    if (power) dz_big_multiply(number, (uint32_t)dz_powers_of_ten[power]);
}

/* Below 0, 0, above 0: how two numbers compare. */
static int dz_big_compare(const dz_big *left, const dz_big *right)
{
    if (left->used != right->used) return left->used < right->used ? -1 : 1;
    for (uint32_t at = left->used; at-- > 0;)
        if (left->limbs[at] != right->limbs[at]) return left->limbs[at] < right->limbs[at] ? -1 : 1;
    return 0;
}

/* Adds `other`. */
static void dz_big_add(dz_big *number, const dz_big *other)
{
    uint64_t carry = 0;
    while (number->used < other->used) number->limbs[number->used++] = 0;
    for (uint32_t at = 0; at < number->used; at++) {
        carry += (uint64_t)number->limbs[at] + (at < other->used ? other->limbs[at] : 0);
        number->limbs[at] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry) number->limbs[number->used++] = (uint32_t)carry;
}

/* Takes away `other`, which is not more. */
static void dz_big_subtract(dz_big *number, const dz_big *other)
{
    int64_t carry = 0;
    for (uint32_t at = 0; at < number->used; at++) {
        carry += (int64_t)number->limbs[at] - (at < other->used ? other->limbs[at] : 0);
        number->limbs[at] = (uint32_t)carry;
        carry >>= 32;
    }
    while (number->used && number->limbs[number->used - 1] == 0) number->used--;
}

/* How the sum of two numbers compares with a third. */
static int dz_big_compare_sum(const dz_big *left, const dz_big *right, const dz_big *other)
{
    dz_big sum = *left;
    dz_big_add(&sum, right);
    return dz_big_compare(&sum, other);
}

/* ---- floats to digits ----------------------------------------------------------------------------------------- */

/* The digits of a word without leading zeros, of 0 none; returns how many. */
static inline int dz_word_digits(uint64_t word, char *digits)
{
    char reversed[20];
    int count = 0;
    for (; word; word /= 10) reversed[count++] = (char)('0' + word % 10);
    for (int at = 0; at < count; at++) digits[at] = reversed[count - 1 - at];
    return count;
}

/* Adds one to the last of `count` digits. What would be 9 + 1 goes, as the zeros behind the last digit do; if all are
   9, a 1 is left, one place further to the left. Returns how many are left. */
static int dz_digits_up(char *digits, int count, int *point)
{
    while (count > 0 && digits[count - 1] == '9') count--;
    if (count == 0) {
        digits[0] = '1';
        ++*point;
        return 1;
    }
    digits[count - 1]++;
    return count;
}

/* The shortest digits that lie between the neighbours of value = mantissa * 2^exponent and nearest to it: Steele's and
   White's way, with all numbers over one denominator. What is read back is rounded to even, so that the ends of the
   interval belong to it if the mantissa is even. 0.DIGITS times ten to the `point` is the number. */
static int dz_shortest_digits(double value, uint64_t mantissa, int exponent, char *digits, int *point)
{
    bool even = (mantissa & 1) == 0;
    bool narrow = mantissa == (uint64_t)1 << 52 && exponent > -1074; /* the neighbour below is half as far away */
    uint32_t more = narrow ? 2 : 1, up = exponent > 0 ? (uint32_t)exponent : 0;
    dz_big rest, unit, above, below;
    dz_big_set(&rest, mantissa, up + more);
    dz_big_set(&unit, 1, (exponent < 0 ? (uint32_t)-exponent : 0) + more);
    dz_big_set(&above, 1, up + more - 1);
    dz_big_set(&below, 1, up);
    int power = (int)floor(log10(value)); /* or one beside it */
    if (power > 0) dz_big_scale(&unit, (uint32_t)power);
    if (power < 0) {
        dz_big_scale(&rest, (uint32_t)-power);
        dz_big_scale(&above, (uint32_t)-power);
        dz_big_scale(&below, (uint32_t)-power);
    }
    while (dz_big_compare(&rest, &unit) < 0) {
        power--;
        dz_big_multiply(&rest, 10);
        dz_big_multiply(&above, 10);
        dz_big_multiply(&below, 10);
    }
    dz_big tenfold = unit;
    dz_big_multiply(&tenfold, 10);
    if (dz_big_compare(&rest, &tenfold) >= 0) {
        power++;
        unit = tenfold;
    }
    *point = power + 1;
    for (int count = 0;;) {
        int digit = 0;
        for (; dz_big_compare(&rest, &unit) >= 0; digit++) dz_big_subtract(&rest, &unit);
        int to_below = dz_big_compare(&rest, &below), to_above = dz_big_compare_sum(&rest, &above, &unit);
        bool may_end = even ? to_below <= 0 : to_below < 0, may_go_up = even ? to_above >= 0 : to_above > 0;
        digits[count++] = (char)('0' + digit);
        if (may_end || may_go_up) {
            int half = dz_big_compare_sum(&rest, &rest, &unit);
            bool goes_up = may_go_up && (!may_end || half > 0 || (half == 0 && digit % 2 == 1));
            return goes_up ? dz_digits_up(digits, count, point) : count;
        }
        dz_big_multiply(&rest, 10);
        dz_big_multiply(&above, 10);
        dz_big_multiply(&below, 10);
    }
}

/* Takes a finite float that is not 0 apart: |value| = mantissa * 2^exponent. */
static inline uint64_t dz_take_apart(double value, int *exponent)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    int biased = (int)(bits >> 52 & 0x7ff);
    uint64_t fraction = bits & (((uint64_t)1 << 52) - 1);
    *exponent = (biased ? biased : 1) - 1075;
    return biased ? fraction | (uint64_t)1 << 52 : fraction;
}

/* The digits of `dz_shortest_digits` of a finite value above 0. Most floats in data are decimals of few places, and
   two decimals of up to 15 digits are never the same float: so the first that gives the value is the shortest. */
static int dz_float_digits(double value, char *digits, int *point)
{
    for (int places = 0; places <= 6; places++) {
        double scaled = value * dz_float_powers_of_ten[places];
        if (scaled >= 1e15) break;
        double whole = rint(scaled);
        if (whole > 0 && whole / dz_float_powers_of_ten[places] == value) {
            int count = dz_word_digits((uint64_t)whole, digits);
            *point = count - places;
            while (digits[count - 1] == '0') count--;
            return count;
        }
    }
    int exponent;
    uint64_t mantissa = dz_take_apart(value, &exponent);
    return dz_shortest_digits(value, mantissa, exponent, digits, point);
}

#define DZ_NUMBER_LENGTH 32 /* no number is longer as a text */

/* What Python's `repr` says of a float; returns the length. */
static int dz_write_float(double value, char *text)
{
    char digits[20], *end = text;
    if (isnan(value)) return memcpy(text, "nan", 3), 3;
    if (value < 0) *end++ = '-';
    if (isinf(value)) return memcpy(end, "inf", 3), (int)(end - text) + 3;
    if (value == 0) return memcpy(text, "0.0", 3), 3;
    int point, count = dz_float_digits(fabs(value), digits, &point);
    if (point > 16 || point <= -4) { /* d.dde+xx */
        int exponent = point - 1;
        *end++ = digits[0];
        if (count > 1) {
            *end++ = '.';
            memcpy(end, digits + 1, (size_t)count - 1);
            end += count - 1;
        }
        *end++ = 'e';
        *end++ = exponent < 0 ? '-' : '+';
        exponent = abs(exponent);
        if (exponent < 10) *end++ = '0';
        end += dz_word_digits((uint64_t)exponent, end);
        return (int)(end - text);
    }
    if (point <= 0) {
        *end++ = '0';
        *end++ = '.';
        for (int zeros = point; zeros < 0; zeros++) *end++ = '0';
        memcpy(end, digits, (size_t)count);
        return (int)(end - text) + count;
    }
    for (int at = 0; at < point; at++) *end++ = at < count ? digits[at] : '0';
    *end++ = '.';
    if (count <= point) *end++ = '0';
    for (int at = point; at < count; at++) *end++ = digits[at];
    return (int)(end - text);
}

/* An integer as a text; returns the length. */
static inline int dz_write_int(int64_t value, char *text)
{
    if (value == 0) return *text = '0', 1;
    if (value > 0) return dz_word_digits((uint64_t)value, text);
    *text = '-';
    return 1 + dz_word_digits(-(uint64_t)value, text + 1);
}

/* The lowest `count` digits of a number, with leading zeros. */
static inline void dz_write_padded(uint64_t number, char *text, int count)
{
    for (; count > 0; number /= 10) text[--count] = (char)('0' + number % 10);
}

/* A decimal with all its digits behind the point; returns the length. */
static inline int dz_write_decimal(int64_t value, int scale, char *text)
{
    if (scale == 0) return dz_write_int(value, text);
    uint64_t size = value < 0 ? -(uint64_t)value : (uint64_t)value, unit = dz_powers_of_ten[scale];
    char *end = text;
    if (value < 0) *end++ = '-';
    end += dz_write_int((int64_t)(size / unit), end);
    *end++ = '.';
    dz_write_padded(size % unit, end, scale);
    return (int)(end - text) + scale;
}

/* ---- digits to floats ----------------------------------------------------------------------------------------- */

#define DZ_DIGITS_MAX 800 /* the middle between two floats has less; behind those, a digit only says "more" */

/* DIGITS (at least one) times ten to the `exponent`, rounded to the nearest float, half to even. They go through the
   library's strtod, which is exact, and are written without a point, as its point depends on the locale. */
static double dz_digits_to_float(const char *digits, size_t count, int64_t exponent)
{
    for (; count > 1 && *digits == '0'; count--) digits++;
    for (; count > 1 && digits[count - 1] == '0'; count--) exponent++;
    if (*digits == '0') return 0.0;
    if (count <= 15 && exponent >= -22 && exponent <= 22) {
        uint64_t whole = 0;
        for (size_t at = 0; at < count; at++) whole = whole * 10 + (uint64_t)(digits[at] - '0');
        return exponent < 0 ? (double)whole / dz_float_powers_of_ten[-exponent]
                            : (double)whole * dz_float_powers_of_ten[exponent];
    }
    char text[DZ_DIGITS_MAX + 32];
    size_t used = count <= DZ_DIGITS_MAX ? count : DZ_DIGITS_MAX;
    memcpy(text, digits, used);
    if (used < count) text[used++] = '1'; /* the last of those that were left out is not 0 */
    exponent += (int64_t)count - (int64_t)used;
    if (exponent > 100000) exponent = 100000;
    if (exponent < -100000) exponent = -100000;
    text[used++] = 'e';
    used += (size_t)dz_write_int(exponent, text + used);
    text[used] = 0;
    return strtod(text, NULL);
}

/* ---- rounding ------------------------------------------------------------------------------------------------- */

/* number / 2^shift, half to even. */
static inline unsigned __int128 dz_shift_half_even(unsigned __int128 number, uint32_t shift)
{
    if (shift == 0) return number;
    if (shift > 127) return 0; /* numbers are below 2^126 */
    unsigned __int128 unit = (unsigned __int128)1 << shift, whole = number >> shift, rest = number & (unit - 1);
    return whole + (rest > unit / 2 || (rest == unit / 2 && (whole & 1)));
}

/* The float nearest to number / unit, half to even, for a number below 2^53 * unit. */
static inline double dz_nearest_quotient(unsigned __int128 number, uint64_t unit)
{
    if (number == 0) return 0.0;
    /* Two bits more than a float has, and one that says whether there is a rest, round as the exact quotient does. */
    uint64_t high = (uint64_t)(number >> 64);
    int bits = high ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll((uint64_t)number);
    int shift = 55 + 64 - __builtin_clzll(unit) - bits;
    if (shift < 0) shift = 0;
    unsigned __int128 shifted = number << shift;
    uint64_t quotient = (uint64_t)(shifted / unit) << 1 | (shifted % unit != 0);
    return ldexp((double)quotient, -shift - 1);
}

/* A float rounded to `places` behind the point (0 to 18): the float nearest to the decimal that is nearest to the exact
   value, half to even both times, as Python rounds. */
static inline double dz_round_float(double value, int places)
{
    double size = fabs(value);
    if (!(size < 0x1p52) || size == 0) return value; /* whole, infinite or NaN */
    int exponent;
    uint64_t mantissa = dz_take_apart(size, &exponent), unit = dz_powers_of_ten[places];
    unsigned __int128 scaled = dz_shift_half_even((unsigned __int128)mantissa * unit, (uint32_t)-exponent);
    return copysign(dz_nearest_quotient(scaled, unit), value) + 0.0;
}

/* number / unit (above 0), half to even. */
static inline int64_t dz_half_even(int64_t number, int64_t unit)
{
    int64_t whole = number / unit, rest = number % unit; /* of the number's sign */
    uint64_t off = rest < 0 ? -(uint64_t)rest : (uint64_t)rest, back = (uint64_t)unit - off;
    if (off > back || (off == back && (whole & 1))) whole += number < 0 ? -1 : 1;
    return whole;
}

#endif
