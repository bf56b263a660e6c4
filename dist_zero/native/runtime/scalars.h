/* What scalar operations compute where a C operator is not enough: the functions that `scalars.py` has generated code
   call. Arguments are never null. An operation that can fail returns 0 or why it failed, and writes its value through
   a pointer; the others return the value. Values of `reference/functions.py`, bit for bit. */

#ifndef DZ_SCALARS_H
#define DZ_SCALARS_H

#include "core.h"
#include "digits.h"

/* A program may compare anything with anything; that the outcome is known is no mistake of ours. */
#pragma GCC diagnostic ignored "-Wtautological-compare"
#pragma GCC diagnostic ignored "-Wtype-limits"

/* Why an expression has no value for a row; `REASONS` in scalars.py has the texts. */
enum {
    DZ_INTEGER_OVERFLOW = 1,
    DZ_DECIMAL_OVERFLOW,
    DZ_DIVISION_BY_ZERO,
    DZ_BAD_CAST,
    DZ_OUT_OF_RANGE,
};

/* ---- floats --------------------------------------------------------------------------------------------------- */

/* The word of a float that is not -0.0. */
static inline uint64_t dz_word_of_float(double value)
{
    uint64_t word;
    memcpy(&word, &value, 8);
    return value == value ? word : DZ_NAN_BITS;
}

/* A float with the one NaN, if it is not -0.0. */
static inline double dz_canonical(double value)
{
    uint64_t word = dz_word_of_float(value);
    memcpy(&value, &word, 8);
    return value;
}

/* The float in a word. */
static inline double dz_float_of(uint64_t word)
{
    double value;
    memcpy(&value, &word, 8);
    return value;
}

/* Floats compare with NaN equal to itself and above every number. */
static inline bool dz_float_eq(double a, double b)
{
    return a == b || (a != a && b != b);
}

static inline bool dz_float_lt(double a, double b)
{
    return a < b || (b != b && a == a);
}

static inline bool dz_float_le(double a, double b)
{
    return a <= b || b != b;
}

static inline int dz_div_float(double a, double b, double *value)
{
    if (b == 0.0) return DZ_DIVISION_BY_ZERO;
    *value = a / b + 0.0;
    return 0;
}

/* The remainder has the divisor's sign, as in Python. */
static inline int dz_mod_float(double a, double b, double *value)
{
    if (b == 0.0) return DZ_DIVISION_BY_ZERO;
    double rest = fmod(a, b);
    if (rest != 0 && (b < 0) != (rest < 0)) rest += b;
    *value = rest + 0.0;
    return 0;
}

/* The whole number nearest to (a - a mod b) / b, from below, as in Python. */
static inline int dz_floordiv_float(double a, double b, double *value)
{
    if (b == 0.0) return DZ_DIVISION_BY_ZERO;
    double rest = fmod(a, b), quotient = (a - rest) / b;
    if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1.0;
    double whole = floor(quotient);
    if (quotient - whole > 0.5) whole += 1.0;
    *value = whole + 0.0;
    return 0;
}

/* ---- integers ------------------------------------------------------------------------------------------------- */

/* Rounded down, as in Python. */
static inline int dz_floordiv_int(int64_t a, int64_t b, int64_t *value)
{
    if (b == 0) return DZ_DIVISION_BY_ZERO;
    if (b == -1) return __builtin_sub_overflow(0, a, value) ? DZ_INTEGER_OVERFLOW : 0;
    *value = a / b - (a % b != 0 && (a ^ b) < 0);
    return 0;
}

/* The remainder has the divisor's sign, as in Python. */
static inline int dz_mod_int(int64_t a, int64_t b, int64_t *value)
{
    if (b == 0) return DZ_DIVISION_BY_ZERO;
    int64_t rest = b == -1 ? 0 : a % b;
    *value = rest != 0 && (rest ^ b) < 0 ? rest + b : rest;
    return 0;
}

/* a / b rounded down, for b above 0. */
static inline int64_t dz_floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* ---- casts between numbers ------------------------------------------------------------------------------------ */

static inline int dz_float_to_int(double number, int64_t *value)
{
    if (!(number >= -0x1p63 && number < 0x1p63)) return DZ_BAD_CAST;
    *value = (int64_t)number;
    return 0;
}

/* A size and a sign as an int64. */
static inline int dz_signed(unsigned __int128 size, bool negative, int64_t *value)
{
    if (size > (uint64_t)INT64_MAX + negative) return DZ_BAD_CAST;
    *value = (int64_t)(negative ? -(uint64_t)size : (uint64_t)size);
    return 0;
}

/* The decimal nearest to the exact value, half to even. */
static inline int dz_float_to_decimal(double number, int scale, int64_t *value)
{
    double size = fabs(number);
    if (!(size <= 0x1p63)) return DZ_BAD_CAST;
    if (size == 0) return *value = 0, 0;
    int exponent;
    unsigned __int128 scaled = (unsigned __int128)dz_take_apart(size, &exponent) * dz_powers_of_ten[scale];
    scaled = exponent >= 0 ? scaled << exponent : dz_shift_half_even(scaled, (uint32_t)-exponent);
    return dz_signed(scaled, number < 0, value);
}

/* ---- casts from text ------------------------------------------------------------------------------------------ */

/* How many digits there are from `at` on. */
static inline uint32_t dz_digit_run(const dz_text *text, uint32_t at)
{
    uint32_t end = at;
    while (end < text->length && text->bytes[end] >= '0' && text->bytes[end] <= '9') end++;
    return end - at;
}

/* How long the sign at the place `at` is. */
static inline uint32_t dz_sign_length(const dz_text *text, uint32_t at)
{
    return at < text->length && (text->bytes[at] == '+' || text->bytes[at] == '-');
}

/* The number that `count` digits are, for numbers below 10^38. */
static inline int dz_read_digits(const char *digits, uint32_t count, unsigned __int128 *number)
{
    for (; count && *digits == '0'; count--) digits++;
    if (count > 38) return DZ_BAD_CAST;
    *number = 0;
    for (; count; count--) *number = *number * 10 + (unsigned)(*digits++ - '0');
    return 0;
}

static inline int dz_text_to_int(const dz_text *text, int64_t *value)
{
    uint32_t from = dz_sign_length(text, 0), digits = dz_digit_run(text, from);
    unsigned __int128 size;
    if (digits == 0 || from + digits != text->length) return DZ_BAD_CAST;
    int failure = dz_read_digits(text->bytes + from, digits, &size);
    return failure ? failure : dz_signed(size, text->bytes[0] == '-', value);
}

/* Digits, and digits behind a point if there is one; the decimal nearest to them, half to even. */
static inline int dz_text_to_decimal(const dz_text *text, int scale, int64_t *value)
{
    uint32_t from = dz_sign_length(text, 0), whole = dz_digit_run(text, from), part = 0;
    uint32_t end = from + whole;
    if (whole == 0) return DZ_BAD_CAST;
    if (end < text->length && text->bytes[end] == '.') {
        part = dz_digit_run(text, end + 1);
        if (part == 0) return DZ_BAD_CAST;
        end += 1 + part;
    }
    unsigned __int128 size;
    if (end != text->length || dz_read_digits(text->bytes + from, whole, &size) || size >> 64 != 0)
        return DZ_BAD_CAST;
    const char *digits = text->bytes + from + whole + 1;
    uint32_t taken = part < (uint32_t)scale ? part : (uint32_t)scale;
    for (uint32_t at = 0; at < taken; at++) size = size * 10 + (unsigned)(digits[at] - '0');
    size *= dz_powers_of_ten[(uint32_t)scale - taken];
    if (part > taken) {
        bool rest = false;
        for (uint32_t at = taken + 1; at < part && !rest; at++) rest = digits[at] != '0';
        char next = digits[taken];
        size += next > '5' || (next == '5' && (rest || (size & 1)));
    }
    return dz_signed(size, text->bytes[0] == '-', value);
}

/* Digits, with a fraction and an exponent if there are any; the nearest float. `base` has room for long ones. */
static inline int dz_text_to_float(dz_base *base, const dz_text *text, double *value)
{
    uint32_t from = dz_sign_length(text, 0), whole = dz_digit_run(text, from), part = 0;
    uint32_t end = from + whole;
    int64_t exponent = 0;
    if (whole == 0) return DZ_BAD_CAST;
    if (end < text->length && text->bytes[end] == '.') {
        part = dz_digit_run(text, end + 1);
        if (part == 0) return DZ_BAD_CAST;
        end += 1 + part;
    }
    if (end < text->length && (text->bytes[end] == 'e' || text->bytes[end] == 'E')) {
        uint32_t sign = dz_sign_length(text, end + 1), count = dz_digit_run(text, end + 1 + sign);
        if (count == 0) return DZ_BAD_CAST;
        const char *digits = text->bytes + end + 1 + sign;
        for (uint32_t at = 0; at < count; at++) /* no text has digits enough to make up for more */
            if (exponent < (int64_t)1 << 40) exponent = exponent * 10 + (digits[at] - '0');
        if (digits[-1] == '-') exponent = -exponent;
        end += 1 + sign + count;
    }
    if (end != text->length) return DZ_BAD_CAST;
    char few[64], *digits = whole + part <= sizeof few ? few : (char *)dz_scratch(base, (whole + part + 7ull) / 8);
    memcpy(digits, text->bytes + from, whole);
    if (part) memcpy(digits + whole, text->bytes + from + whole + 1, part);
    double size = dz_digits_to_float(digits, whole + part, exponent - part);
    *value = (text->bytes[0] == '-' ? -size : size) + 0.0;
    return 0;
}

/* ---- text ----------------------------------------------------------------------------------------------------- */

/* Below 0, 0, above 0: how the bytes of two texts compare, which is how their code points do. */
static inline int dz_text_compare(const dz_text *a, const dz_text *b)
{
    if (a == b) return 0;
    int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);
    return order ? order : a->length < b->length ? -1 : 1;
}

/* How many code points so many bytes of text are. */
static inline int64_t dz_code_points(const char *bytes, uint32_t length)
{
    int64_t count = 0;
    for (uint32_t at = 0; at < length; at++) count += (bytes[at] & 0xc0) != 0x80;
    return count;
}

/* The byte at which code point number `count` from `from` on begins; the end of the text if there are fewer. */
static inline uint32_t dz_skip_code_points(const dz_text *text, uint32_t from, int64_t count)
{
    while (from < text->length && ((text->bytes[from] & 0xc0) == 0x80 || count-- > 0)) from++;
    return from;
}

static inline bool dz_starts_with(const dz_text *text, const dz_text *head)
{
    return head->length <= text->length && memcmp(text->bytes, head->bytes, head->length) == 0;
}

static inline bool dz_ends_with(const dz_text *text, const dz_text *tail)
{
    return tail->length <= text->length &&
           memcmp(text->bytes + text->length - tail->length, tail->bytes, tail->length) == 0;
}

static inline bool dz_contains(const dz_text *text, const dz_text *part)
{
    if (part->length == 0) return true;
    const char *at = text->bytes, *end = text->bytes + text->length;
    while ((size_t)(end - at) >= part->length) {
        at = memchr(at, part->bytes[0], (size_t)(end - at) - part->length + 1);
        if (!at) return false;
        if (memcmp(at, part->bytes, part->length) == 0) return true;
        at++;
    }
    return false;
}

/* The text of which every letter from `first` to `first` + 25 is in the other case, ASCII alone. */
static inline dz_text *dz_other_case(dz_base *base, dz_text *text, char first)
{
    uint32_t at = 0;
    while (at < text->length && (unsigned)(text->bytes[at] - first) > 25) at++;
    if (at == text->length) return text;
    char few[256], *bytes = text->length <= sizeof few ? few : (char *)dz_scratch(base, (text->length + 7ull) / 8);
    memcpy(bytes, text->bytes, text->length);
    for (; at < text->length; at++)
        if ((unsigned)(bytes[at] - first) <= 25) bytes[at] ^= 0x20;
    return dz_intern(base, bytes, text->length);
}

static inline dz_text *dz_lower(dz_base *base, dz_text *text)
{
    return dz_other_case(base, text, 'A');
}

static inline dz_text *dz_upper(dz_base *base, dz_text *text)
{
    return dz_other_case(base, text, 'a');
}

/* `length` code points from `start` on, which counts from the end if it is below 0. */
static inline int dz_slice(dz_base *base, dz_text *text, int64_t start, int64_t length, dz_text **value)
{
    if (length < 0) return DZ_OUT_OF_RANGE;
    if (start < 0) {
        start += dz_code_points(text->bytes, text->length);
        if (start < 0) start = 0;
    }
    uint32_t from = dz_skip_code_points(text, 0, start), to = dz_skip_code_points(text, from, length);
    *value = to - from == text->length ? text : dz_intern(base, text->bytes + from, to - from);
    return 0;
}

/* All texts, one behind the other. */
static inline dz_text *dz_concat(dz_base *base, dz_text *const *texts, uint32_t count)
{
    size_t length = 0, end = 0;
    for (uint32_t at = 0; at < count; at++) length += texts[at]->length;
    char few[256], *bytes = length <= sizeof few ? few : (char *)dz_scratch(base, (length + 7) / 8);
    for (uint32_t at = 0; at < count; end += texts[at++]->length)
        memcpy(bytes + end, texts[at]->bytes, texts[at]->length);
    return dz_intern(base, bytes, length);
}

/* ---- membership in constants, which are in ascending order ---------------------------------------------------- */

static inline bool dz_in_words(uint64_t word, const uint64_t *words, uint32_t count)
{
    uint32_t from = 0, to = count;
    while (from < to) {
        uint32_t middle = (from + to) / 2;
        if (words[middle] < word)
            from = middle + 1;
        else
            to = middle;
    }
    return from < count && words[from] == word;
}

static inline bool dz_in_texts(const dz_text *text, dz_text *const *texts, uint32_t count)
{
    uint32_t from = 0, to = count;
    while (from < to) {
        uint32_t middle = (from + to) / 2;
        if (dz_text_compare(texts[middle], text) < 0)
            from = middle + 1;
        else
            to = middle;
    }
    return from < count && texts[from] == text;
}

/* ---- datetimes ------------------------------------------------------------------------------------------------ */

#define DZ_DAY_US INT64_C(86400000000)

/* A date of the proleptic Gregorian calendar; `day_of_year` from 1 on. */
typedef struct {
    int64_t year, month, day, day_of_year;
} dz_date;

/* The number of the first day of a year, counted from 1970-01-01 on, for years from 0 on. */
static inline int64_t dz_year_start(int64_t year)
{
    int64_t before = year - 1; /* the years 1 to `before` have these leap days */
    return year * 365 + dz_floor_div(before, 4) - dz_floor_div(before, 100) + dz_floor_div(before, 400) - 719527;
}

static inline bool dz_is_leap(int64_t year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

/* The days of a year in front of a month (1 to 13). */
static inline int64_t dz_days_before(int64_t month, bool leap)
{
    static const uint16_t days[] = {0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
    return days[month] + (leap && month > 2);
}

/* The date of a datetime between the years 1 and 9999. */
static inline dz_date dz_date_of(int64_t us)
{
    int64_t day = dz_floor_div(us, DZ_DAY_US);
    dz_date date = {.year = 1970 + dz_floor_div(day * 400, 146097)}; /* or one beside it */
    while (dz_year_start(date.year) > day) date.year--;
    while (dz_year_start(date.year + 1) <= day) date.year++;
    bool leap = dz_is_leap(date.year);
    date.day_of_year = day - dz_year_start(date.year) + 1;
    date.month = date.day_of_year / 32 + 1; /* or the one before it */
    if (dz_days_before(date.month + 1, leap) < date.day_of_year) date.month++;
    date.day = date.day_of_year - dz_days_before(date.month, leap);
    return date;
}

/* Which part of a day, an hour or a minute it is: us / `unit` % `count`, rounded down. */
static inline int64_t dz_clock(int64_t us, int64_t unit, int64_t count)
{
    int64_t units = dz_floor_div(us, unit);
    return units - dz_floor_div(units, count) * count;
}

/* From 1 on Monday to 7 on Sunday. */
static inline int64_t dz_weekday(int64_t us)
{
    return dz_clock(us + 3 * DZ_DAY_US, DZ_DAY_US, 7) + 1;
}

/* Down to a multiple of `unit`, counted from `origin`. */
static inline int64_t dz_truncate(int64_t us, int64_t unit, int64_t origin)
{
    return origin + dz_floor_div(us - origin, unit) * unit;
}

static inline int64_t dz_truncate_month(int64_t us)
{
    dz_date date = dz_date_of(us);
    return (dz_year_start(date.year) + date.day_of_year - date.day) * DZ_DAY_US;
}

static inline int64_t dz_truncate_year(int64_t us)
{
    return dz_year_start(dz_date_of(us).year) * DZ_DAY_US;
}

/* ---- casts to text -------------------------------------------------------------------------------------------- */

static inline dz_text *dz_int_to_text(dz_base *base, int64_t value)
{
    char text[DZ_NUMBER_LENGTH];
    return dz_intern(base, text, (size_t)dz_write_int(value, text));
}

static inline dz_text *dz_float_to_text(dz_base *base, double value)
{
    char text[DZ_NUMBER_LENGTH];
    return dz_intern(base, text, (size_t)dz_write_float(value, text));
}

static inline dz_text *dz_decimal_to_text(dz_base *base, int64_t value, int scale)
{
    char text[DZ_NUMBER_LENGTH];
    return dz_intern(base, text, (size_t)dz_write_decimal(value, scale, text));
}

/* 2013-01-01T05:00:00Z, with six digits more if there are microseconds. */
static inline dz_text *dz_datetime_to_text(dz_base *base, int64_t us)
{
    char text[] = "0000-00-00T00:00:00.000000Z";
    dz_date date = dz_date_of(us);
    uint64_t rest = (uint64_t)(us - dz_truncate(us, DZ_DAY_US, 0)), seconds = rest / 1000000, part = rest % 1000000;
    dz_write_padded((uint64_t)date.year, text, 4);
    dz_write_padded((uint64_t)date.month, text + 5, 2);
    dz_write_padded((uint64_t)date.day, text + 8, 2);
    dz_write_padded(seconds / 3600, text + 11, 2);
    dz_write_padded(seconds / 60 % 60, text + 14, 2);
    dz_write_padded(seconds % 60, text + 17, 2);
    if (part == 0) {
        text[19] = 'Z';
        return dz_intern(base, text, 20);
    }
    dz_write_padded(part, text + 20, 6);
    return dz_intern(base, text, sizeof text - 1);
}

#endif
