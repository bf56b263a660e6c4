/* What the aggregates of a plan have in common. The renderer writes for each of them a struct of a group and what is done
with its accumulators; here are the words that all groups have, the multisets of minimum and maximum, and how values of
any kind are encoded in a partial one (reference/accumulators.py). */

#ifndef DZ_REDUCE_H
#define DZ_REDUCE_H

#include "ends.h"
#include "ordered.h"
#include "sums.h"

/* The bits of a group's word of marks. `DZ_GROUP_SEEN`: the running step has touched it; `SHOWN`: its row is shown;
   `LOADED`, `TAKEN_BACK`: of its entries, some were taken in from a save since `settle`, or taken back. In the next byte
   is why it has no row (0: it has one, or there is no group), and above it the stamp of `dz_kept_note`. */
enum { DZ_GROUP_SEEN = 1, DZ_GROUP_SHOWN = 2, DZ_GROUP_LOADED = 4, DZ_GROUP_TAKEN_BACK = 8 };
#define DZ_GROUP_FAILURE_BIT 8
#define DZ_GROUP_STAMP_BIT 16

/* Why a group has no row. */
static inline int dz_group_failure(uint64_t marks)
{
    return (int)(marks >> DZ_GROUP_FAILURE_BIT & 0xff);
}

/* Marks with other words on what is shown. */
static inline uint64_t dz_group_show(uint64_t marks, bool shown, int failure)
{
    uint64_t others = marks & ~((uint64_t)0xff << DZ_GROUP_FAILURE_BIT) & ~(uint64_t)DZ_GROUP_SHOWN;
    return others | (uint64_t)failure << DZ_GROUP_FAILURE_BIT | (shown ? DZ_GROUP_SHOWN : 0);
}

/* Notes that a group is touched. */
static inline void dz_group_note(dz_base *base, dz_kept *kept, const dz_shape *key, uint64_t *entry, uint64_t *marks)
{
    if (!kept->tracked || *marks >> DZ_GROUP_STAMP_BIT == kept->stamp) return;
    dz_kept_note(base, kept, key, entry, dz_row_hash(key, entry), NULL);
    *marks = (*marks & (((uint64_t)1 << DZ_GROUP_STAMP_BIT) - 1)) | kept->stamp << DZ_GROUP_STAMP_BIT;
}

/* The order in which places are gone through where entries are removed: the last first. Leaves each place once. */
static uint32_t dz_places_from_the_end(uint64_t *places, uint32_t count)
{
    uint32_t left = 0;
    if (count > 1) qsort(places, count, sizeof *places, dz_compare_from_the_end);
    for (uint32_t at = 0; at < count; at++)
        if (!left || places[left - 1] != places[at]) places[left++] = places[at];
    return left;
}

/* ---- minimum and maximum -------------------------------------------------------------------------------------- */

/* The values of a minimum or maximum in a group: (value, how often) in order. */
enum { DZ_VALUE_WORDS = 2 };

static inline int dz_compare_ints(const uint64_t *left, const uint64_t *right)
{
    int64_t a = (int64_t)*left, b = (int64_t)*right;
    return (a > b) - (a < b);
}

static inline int dz_compare_floats(const uint64_t *left, const uint64_t *right)
{
    uint64_t a = dz_order_word(DZ_FLOAT, *left), b = dz_order_word(DZ_FLOAT, *right);
    return (a > b) - (a < b);
}

static inline int dz_compare_text_values(const uint64_t *left, const uint64_t *right)
{
    return *left == *right ? 0 : dz_compare_texts(dz_text_of(*left), dz_text_of(*right));
}

/* Takes in a value so many times. Texts are held. */
static inline void dz_values_add(dz_base *base, dz_ordered *values, dz_compare *compare, bool is_text, uint64_t value,
                                 int64_t weight)
{
    uint64_t entry[DZ_VALUE_WORDS] = {value, (uint64_t)weight};
    bool is_new;
    if (weight == 0) return;
    uint64_t *found = dz_ordered_insert(base, values, DZ_VALUE_WORDS, compare, entry, &is_new);
    if (is_new) {
        if (is_text) dz_hold(dz_text_of(value));
        return;
    }
    int64_t count = dz_add_weights(base, (int64_t)found[1], weight);
    found[1] = (uint64_t)count;
    if (count) return;
    dz_ordered_remove(base, values, DZ_VALUE_WORDS, compare, entry, NULL);
    if (is_text) dz_drop(base, dz_text_of(value));
}

/* How often a value is there. */
static inline int64_t dz_values_count(const dz_ordered *values, dz_compare *compare, uint64_t value)
{
    const uint64_t *found = dz_ordered_find(values, DZ_VALUE_WORDS, compare, &value);
    return found ? (int64_t)found[1] : 0;
}

/* The smallest or the largest value; false: there is none. */
static inline bool dz_values_extreme(const dz_ordered *values, bool largest, uint64_t *value)
{
    const uint64_t *found =
        largest ? dz_ordered_last(values, DZ_VALUE_WORDS) : dz_ordered_first(values, DZ_VALUE_WORDS);
    *value = found ? *found : 0;
    return found != NULL;
}

/* Frees the values. */
static inline void dz_values_free(dz_base *base, dz_ordered *values, bool is_text)
{
    dz_cursor cursor;
    if (is_text)
        for (const uint64_t *entry = dz_cursor_first(&cursor, values, DZ_VALUE_WORDS); entry;
             entry = dz_cursor_next(&cursor, DZ_VALUE_WORDS))
            dz_drop(base, dz_text_of(*entry));
    dz_ordered_free(base, values, DZ_VALUE_WORDS);
    *values = (dz_ordered){0};
}

/* ---- encoding ------------------------------------------------------------------------------------------------- */

/* The text of bytes. */
static inline dz_text *dz_text_of_bytes(dz_base *base, const char *bytes, size_t length)
{
    return dz_intern(base, bytes, length);
}

/* The extreme of a group, encoded: nothing, or 0x01 and the value. */
static dz_text *dz_encode_extreme(dz_base *base, const dz_ordered *values, bool largest, uint8_t kind)
{
    uint64_t value;
    char bytes[9] = {1};
    if (!dz_values_extreme(values, largest, &value)) return dz_intern(base, bytes, 0);
    if (!dz_is_text(kind)) {
        memcpy(bytes + 1, &value, 8);
        return dz_intern(base, bytes, kind == DZ_BOOL ? 2 : 9);
    }
    const dz_text *text = dz_text_of(value);
    char *long_bytes = (char *)dz_scratch(base, (uint64_t)text->length / 8 + 1);
    long_bytes[0] = 1;
    memcpy(long_bytes + 1, text->bytes, text->length);
    return dz_intern(base, long_bytes, (size_t)text->length + 1);
}

/* Whether bytes are UTF-8 as Python takes it. */
static bool dz_is_utf8(const unsigned char *bytes, size_t length)
{
    for (size_t at = 0; at < length;) {
        unsigned char first = bytes[at];
        size_t more = first < 0x80 ? 0 : first < 0xc2 ? 4 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : 4;
        if (more == 4 || at + more >= length) return false;
        unsigned char second = more ? bytes[at + 1] : 0x80;
        if (first == 0xe0 && second < 0xa0) return false;
        if (first == 0xed && second > 0x9f) return false;
        if (first == 0xf0 && second < 0x90) return false;
        if (first == 0xf4 && second > 0x8f) return false;
        for (size_t next = 1; next <= more; next++)
            if ((bytes[at + next] & 0xc0) != 0x80) return false;
        at += more + 1;
    }
    return true;
}

/* The first and last datetime there is; `dist_zero/types.py`. */
#define DZ_DATETIME_MIN (-62135596800000000)
#define DZ_DATETIME_MAX 253402300799999999

/* The value of an encoded extreme, checked; `members`: of an enum. */
static uint64_t dz_decode_extreme(dz_base *base, const dz_text *data, uint8_t kind, uint32_t members)
{
    const char *bytes = data->bytes + 1;
    size_t length = data->length - 1, expected = kind == DZ_BOOL ? 1 : 8;
    bool right = data->bytes[0] == 1;
    if (right && kind == DZ_STR) right = dz_is_utf8((const unsigned char *)bytes, length);
    if (right && dz_is_text(kind)) return dz_word_of(dz_intern(base, bytes, length));
    uint64_t word = 0;
    right = right && length == expected;
    if (right) memcpy(&word, bytes, expected);
    if (kind == DZ_BOOL) word = word != 0;
    if (kind == DZ_FLOAT) {
        double value;
        memcpy(&value, &word, 8);
        if (value != value) word = DZ_NAN_BITS;
        right = right && word != (uint64_t)1 << 63;
    }
    if (kind == DZ_ENUM) right = right && word < members;
    if (kind == DZ_DATETIME) right = right && (int64_t)word >= DZ_DATETIME_MIN && (int64_t)word <= DZ_DATETIME_MAX;
    if (!right) dz_raise(base, DZ_MALFORMED, "a partial extreme that is no value of its type");
    return word;
}

#endif
