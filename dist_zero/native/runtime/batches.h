/* Batches as they travel: checks, hashes, routing and gathering over raw columns, without making rows of them.

   Every function gets a batch as two arrays: `head`, int64 words

       rows, columns, bytes of weights, then of each column: kind, nullable, members, and how many bytes of validity,
       of offsets and of values there are

   and `blobs`, pointers to the weights and, of each column, to validity, offsets and values. The layout of these is
   told by dist_zero/column_data.py. Nothing is taken for granted about alignment. Little-endian machines only. */

#ifndef DZ_BATCHES_H
#define DZ_BATCHES_H

#include "core.h"
#include "xxh64.h"

#define DZ_RAW_HEAD 3   /* words of `head` in front of those of columns */
#define DZ_RAW_COLUMN 6 /* words of a column */
#define DZ_MODULUS 18446744073709551557ull /* CONTENT_MODULUS of dist_zero/batch.py: 2^64 - 59 */
#define DZ_MINUS_ZERO 0x8000000000000000ull
#define DZ_DATETIME_MIN (-62135596800000000ll) /* dist_zero/types.py: the years 1 to 9999 */
#define DZ_DATETIME_MAX 253402300799999999ll

typedef struct {
    int64_t kind, nullable, members, validity_bytes, offset_bytes, value_bytes;
    const uint8_t *validity, *offsets, *values;
} dz_raw_column;

/* Column `number` of a batch. */
static inline dz_raw_column dz_raw(const int64_t *head, const uint8_t *const *blobs, int64_t number)
{
    const int64_t *words = head + DZ_RAW_HEAD + DZ_RAW_COLUMN * number;
    const uint8_t *const *data = blobs + 1 + 3 * number;
    return (dz_raw_column){words[0], words[1], words[2], words[3], words[4], words[5], data[0], data[1], data[2]};
}

static inline uint64_t dz_word_at(const uint8_t *data, int64_t place)
{
    return dz_load_word((const char *)data + 8 * place);
}

static inline bool dz_raw_is_text(const dz_raw_column *column)
{
    return column->kind == DZ_STR || column->kind == DZ_BYTES;
}

static inline bool dz_raw_is_null(const dz_raw_column *column, int64_t row)
{
    return column->validity_bytes != 0 && column->validity[row] == 0;
}

/* ---- checks -------------------------------------------------------------------------------------------------- */

/* Whether all bytes are 0 or 1; `*any_zero` says whether one is 0. */
static bool dz_are_flags(const uint8_t *bytes, int64_t count, bool *any_zero)
{
    uint8_t high = 0, all = 1;
    for (int64_t i = 0; i < count; i++) {
        high |= bytes[i] & 0xfe;
        all &= bytes[i];
    }
    *any_zero = !all;
    return high == 0;
}

static bool dz_is_ascii(const uint8_t *text, int64_t count)
{
    uint64_t high = 0;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        uint64_t word;
        memcpy(&word, text + i, 8);
        high |= word;
    }
    for (; i < count; i++) high |= (uint64_t)text[i];
    return (high & 0x8080808080808080ull) == 0;
}

static inline bool dz_is_continuation(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* Whether this is UTF-8 as Python's strict decoder takes it: shortest forms, no surrogates, up to U+10FFFF. */
static bool dz_is_utf8(const uint8_t *text, int64_t count)
{
    int64_t i = 0;
    while (i < count) {
        uint8_t first = text[i];
        if (first < 0x80) {
            i++;
        } else if (first < 0xc2) {
            return false;
        } else if (first < 0xe0) {
            if (count - i < 2 || !dz_is_continuation(text[i + 1])) return false;
            i += 2;
        } else if (first < 0xf0) {
            if (count - i < 3 || !dz_is_continuation(text[i + 1]) || !dz_is_continuation(text[i + 2])) return false;
            if (first == 0xe0 && text[i + 1] < 0xa0) return false;
            if (first == 0xed && text[i + 1] >= 0xa0) return false;
            i += 3;
        } else {
            if (first > 0xf4 || count - i < 4) return false;
            for (int k = 1; k < 4; k++)
                if (!dz_is_continuation(text[i + k])) return false;
            if (first == 0xf0 && text[i + 1] < 0x90) return false;
            if (first == 0xf4 && text[i + 1] >= 0x90) return false;
            i += 4;
        }
    }
    return true;
}

/* Whether the offsets ascend from 0 to the end of the values, as many as there are rows and one. */
static bool dz_offsets_good(const dz_raw_column *column, int64_t rows)
{
    if (column->offset_bytes != 8 * (rows + 1) || dz_word_at(column->offsets, 0) != 0) return false;
    uint64_t before = 0;
    bool ascend = true;
    for (int64_t i = 1; i <= rows; i++) {
        uint64_t here = dz_word_at(column->offsets, i);
        ascend &= here >= before;
        before = here;
    }
    return ascend && before == (uint64_t)column->value_bytes;
}

/* Whether a text column without regard to nulls is good: a value must not begin inside of a character. */
static bool dz_texts_good(const dz_raw_column *column, int64_t rows)
{
    if (!dz_offsets_good(column, rows)) return false;
    if (column->kind == DZ_BYTES || dz_is_ascii(column->values, column->value_bytes)) return true;
    if (!dz_is_utf8(column->values, column->value_bytes)) return false;
    for (int64_t i = 1; i < rows; i++) {
        uint64_t at = dz_word_at(column->offsets, i);
        if (at < (uint64_t)column->value_bytes && dz_is_continuation(column->values[at])) return false;
    }
    return true;
}

static bool dz_in_range(const dz_raw_column *column, int64_t rows, int64_t first, int64_t last)
{
    bool good = true;
    for (int64_t i = 0; i < rows; i++) {
        int64_t value = (int64_t)dz_word_at(column->values, i);
        good &= value >= first && value <= last;
    }
    return good;
}

/* Whether there is one NaN and no negative zero. */
static bool dz_floats_good(const dz_raw_column *column, int64_t rows)
{
    bool good = true;
    for (int64_t i = 0; i < rows; i++) {
        uint64_t word = dz_word_at(column->values, i);
        bool is_nan = (word & 0x7fffffffffffffffull) > 0x7ff0000000000000ull;
        good &= word != DZ_MINUS_ZERO && (!is_nan || word == DZ_NAN_BITS);
    }
    return good;
}

/* Whether the place of every null is empty. */
static bool dz_nulls_empty(const dz_raw_column *column, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        if (column->validity[i]) continue;
        if (dz_raw_is_text(column)) {
            if (dz_word_at(column->offsets, i) != dz_word_at(column->offsets, i + 1)) return false;
        } else if (column->kind == DZ_BOOL ? column->values[i] != 0 : dz_word_at(column->values, i) != 0) {
            return false;
        }
    }
    return true;
}

static bool dz_column_good(const dz_raw_column *column, int64_t rows)
{
    bool any_null = false, any_false;
    if (column->validity_bytes) {
        if (column->validity_bytes != rows || !dz_are_flags(column->validity, rows, &any_null)) return false;
        if (any_null && !column->nullable) return false;
    }
    if (dz_raw_is_text(column)) {
        if (!dz_texts_good(column, rows)) return false;
    } else {
        if (column->offset_bytes) return false;
        if (column->value_bytes != (column->kind == DZ_BOOL ? rows : 8 * rows)) return false;
        switch (column->kind) {
        case DZ_BOOL:
            if (!dz_are_flags(column->values, rows, &any_false)) return false;
            break;
        case DZ_FLOAT:
            if (!dz_floats_good(column, rows)) return false;
            break;
        case DZ_DATETIME:
            if (!dz_in_range(column, rows, DZ_DATETIME_MIN, DZ_DATETIME_MAX)) return false;
            break;
        case DZ_ENUM:
            if (!dz_in_range(column, rows, 0, column->members - 1)) return false;
            break;
        default:
            break;
        }
    }
    return !any_null || dz_nulls_empty(column, rows);
}

/* 1 if a batch that somebody sent is good in every respect but its number of rows, which the caller has looked at; 0 if
   something is wrong with it. What it is, Python says. */
DZ_EXPORT int64_t dz_batch_good(const int64_t *head, const uint8_t *const *blobs)
{
    int64_t rows = head[0], columns = head[1];
    if (head[2]) {
        if (head[2] != 8 * rows) return 0;
        for (int64_t i = 0; i < rows; i++)
            if (dz_word_at(blobs[0], i) == 0) return 0;
    }
    for (int64_t i = 0; i < columns; i++) {
        dz_raw_column column = dz_raw(head, blobs, i);
        if (!dz_column_good(&column, rows)) return 0;
    }
    return 1;
}

/* ---- hashes -------------------------------------------------------------------------------------------------- */

/* Writes the canonical encoding of one value (dist_zero/hashing.py) and returns where it ends. */
static inline uint8_t *dz_raw_encode(const dz_raw_column *column, int64_t row, uint8_t *out)
{
    if (dz_raw_is_null(column, row)) {
        *out = 0;
        return out + 1;
    }
    *out++ = 1;
    if (dz_raw_is_text(column)) {
        uint64_t start = dz_word_at(column->offsets, row), length = dz_word_at(column->offsets, row + 1) - start;
        memcpy(out, &length, 8);
        if (length) memcpy(out + 8, column->values + start, length);
        return out + 8 + length;
    }
    if (column->kind == DZ_BOOL) {
        *out = column->values[row];
        return out + 1;
    }
    memcpy(out, column->values + 8 * row, 8);
    return out + 8;
}

/* Bytes that the encoding of a row of these columns can take. */
static uint64_t dz_raw_encoded_max(const dz_raw_column *columns, int64_t count, int64_t rows)
{
    uint64_t size = 0;
    for (int64_t i = 0; i < count; i++) {
        uint64_t longest = 0;
        if (dz_raw_is_text(&columns[i])) {
            for (int64_t row = 0; row < rows; row++)
{
                uint64_t length = dz_word_at(columns[i].offsets, row + 1) - dz_word_at(columns[i].offsets, row);
                if (length > longest) longest = length;
            }
        }
        size += 9 + longest;
    }
    return size;
}

/* What is done with the hash of each row. */
typedef void (*dz_each_hash)(void *to, int64_t row, uint64_t hash);

/* The XXH64 of the canonical encoding of `count` columns of each row, in order; -1 if there is no memory. */
static inline int64_t dz_raw_hashes(const int64_t *head, const uint8_t *const *blobs, const int64_t *places,
                                    int64_t count, dz_each_hash each, void *to)
{
    int64_t rows = head[0];
    dz_raw_column *columns = malloc(sizeof(dz_raw_column) * (size_t)(count + 1));
    if (!columns) return -1;
    for (int64_t i = 0; i < count; i++) columns[i] = dz_raw(head, blobs, places ? places[i] : i);
    if (count == 1 && !columns[0].validity_bytes && !dz_raw_is_text(&columns[0]) && columns[0].kind != DZ_BOOL) {
        uint8_t key[9] = {1}; /* the commonest key */
        for (int64_t row = 0; row < rows; row++) {
            memcpy(key + 1, columns[0].values + 8 * row, 8);
            each(to, row, dz_xxh64(key, 9));
        }
        free(columns);
        return 0;
    }
    uint8_t *buffer = malloc(dz_raw_encoded_max(columns, count, rows) + 1);
    if (!buffer) {
        free(columns);
        return -1;
    }
    for (int64_t row = 0; row < rows; row++) {
        uint8_t *end = buffer;
        for (int64_t i = 0; i < count; i++) end = dz_raw_encode(&columns[i], row, end);
        each(to, row, dz_xxh64(buffer, (size_t)(end - buffer)));
    }
    free(buffer);
    free(columns);
    return 0;
}

static inline void dz_store_hash(void *to, int64_t row, uint64_t hash)
{
    ((uint64_t *)to)[row] = hash;
}

/* The key hashes of all rows into `out`; the key is made of the columns at `places`, in this order. */
DZ_EXPORT int64_t dz_batch_hashes(const int64_t *head, const uint8_t *const *blobs, const int64_t *places,
                                  int64_t count, uint64_t *out)
{
    return dz_raw_hashes(head, blobs, places, count, dz_store_hash, out);
}

/* The hashes of rows without a key: of epoch, transaction and row, as a key of three ints. */
DZ_EXPORT void dz_place_hashes(int64_t epoch, const uint8_t *transactions, const uint8_t *places, int64_t rows,
                               uint64_t *out)
{
    uint8_t key[27] = {0};
    key[0] = key[9] = key[18] = 1;
    memcpy(key + 1, &epoch, 8);
    for (int64_t row = 0; row < rows; row++) {
        memcpy(key + 10, transactions + 8 * row, 8);
        memcpy(key + 19, places + 8 * row, 8);
        out[row] = dz_xxh64(key, 27);
    }
}

/* A product modulo DZ_MODULUS: 2^64 is 59 there. */
static inline uint64_t dz_times(uint64_t left, uint64_t right)
{
    unsigned __int128 product = (unsigned __int128)left * right;
    product = (product >> 64) * 59 + (uint64_t)product;
    product = (product >> 64) * 59 + (uint64_t)product;
    return (uint64_t)(product % DZ_MODULUS);
}

typedef struct {
    unsigned __int128 total;
    const uint8_t *weights;      /* NULL: all are 1 */
    uint64_t what;               /* of writes */
    const uint8_t *transactions; /* of writes */
    const uint8_t *places;       /* of writes */
} dz_content;

/* Adds a row's weight times its hash. There are at most 2^32 rows, and no summand has more than 64 bits. */
static inline void dz_add_row(void *to, int64_t row, uint64_t hash)
{
    dz_content *content = to;
    if (!content->weights) {
        content->total += hash;
        return;
    }
    int64_t weight = (int64_t)dz_word_at(content->weights, row);
    uint64_t factor = weight >= 0 ? (uint64_t)weight : DZ_MODULUS - (0 - (uint64_t)weight);
    content->total += dz_times(factor, hash);
}

/* Adds the hash of a write: of what it does, its places and its content. */
static inline void dz_add_write(void *to, int64_t row, uint64_t hash)
{
    dz_content *content = to;
    uint64_t words[4] = {content->what, dz_word_at(content->transactions, row), dz_word_at(content->places, row), hash};
    content->total += dz_xxh64(words, sizeof words);
}

/* The content hash of a batch (Batch.content_hash) into `out`. */
DZ_EXPORT int64_t dz_batch_content(const int64_t *head, const uint8_t *const *blobs, uint64_t *out)
{
    dz_content content = {0, head[2] ? blobs[0] : NULL, 0, NULL, NULL};
    if (dz_raw_hashes(head, blobs, NULL, head[1], dz_add_row, &content)) return -1;
    *out = (uint64_t)(content.total % DZ_MODULUS);
    return 0;
}

/* The content hash of writes (Writes.content_hash) into `out`. */
DZ_EXPORT int64_t dz_writes_content(const int64_t *head, const uint8_t *const *blobs, uint64_t what,
                                    const uint8_t *transactions, const uint8_t *places, uint64_t *out)
{
    dz_content content = {0, NULL, what, transactions, places};
    if (dz_raw_hashes(head, blobs, NULL, head[1], dz_add_write, &content)) return -1;
    *out = (uint64_t)(content.total % DZ_MODULUS);
    return 0;
}

/* ---- routing ------------------------------------------------------------------------------------------------- */

/* The shard that owns a hash: the first whose last hash is not below it (dist_zero/shards.py). */
static inline int64_t dz_owner(uint64_t hash, const uint64_t *lasts, int64_t shards)
{
    int64_t low = 0, high = shards;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (lasts[middle] < hash) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Which rows each shard gets: their places into `indices`, those of shard 0 first, ascending for each, and into
   `counts` how many each gets. -1: no memory; -2: a hash that nobody owns. */
DZ_EXPORT int64_t dz_route(const uint64_t *hashes, int64_t rows, const uint64_t *lasts, int64_t shards,
                           int64_t *counts, int64_t *indices)
{
    uint32_t *owners = malloc(4 * (size_t)rows + 4);
    int64_t *next = malloc(8 * (size_t)shards + 8);
    int64_t problem = owners && next ? 0 : -1;
    if (!problem) memset(counts, 0, 8 * (size_t)shards);
    for (int64_t row = 0; row < rows && !problem; row++) {
        int64_t owner = dz_owner(hashes[row], lasts, shards);
        if (owner == shards) {
            problem = -2;
            break;
        }
        owners[row] = (uint32_t)owner;
        counts[owner]++;
    }
    if (!problem) {
        int64_t start = 0;
        for (int64_t shard = 0; shard < shards; shard++) {
            next[shard] = start;
            start += counts[shard];
        }
        for (int64_t row = 0; row < rows; row++) indices[next[owners[row]]++] = row;
    }
    free(owners);
    free(next);
    return problem;
}

/* ---- making batches ------------------------------------------------------------------------------------------ */

/* Bytes of the values of a text column at some rows. */
static uint64_t dz_texts_size(const dz_raw_column *column, const int64_t *indices, int64_t count)
{
    uint64_t size = 0;
    for (int64_t i = 0; i < count; i++)
        size += dz_word_at(column->offsets, indices[i] + 1) - dz_word_at(column->offsets, indices[i]);
    return size;
}

/* The words at some rows, one behind the other. */
static uint8_t *dz_gather_words(const uint8_t *from, const int64_t *indices, int64_t count, uint8_t *out)
{
    for (int64_t i = 0; i < count; i++) memcpy(out + 8 * i, from + 8 * indices[i], 8);
    return out + 8 * count;
}

static uint8_t *dz_gather_bytes(const uint8_t *from, const int64_t *indices, int64_t count, uint8_t *out)
{
    for (int64_t i = 0; i < count; i++) out[i] = from[indices[i]];
    return out + count;
}

/* Offsets, then values, of a text column at some rows. */
static uint8_t *dz_gather_texts(const dz_raw_column *column, const int64_t *indices, int64_t count, uint8_t *out)
{
    uint8_t *values = out + 8 * (count + 1);
    uint64_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        uint64_t start = dz_word_at(column->offsets, indices[i]);
        uint64_t length = dz_word_at(column->offsets, indices[i] + 1) - start;
        memcpy(out + 8 * i, &at, 8);
        if (length) memcpy(values + at, column->values + start, length);
        at += length;
    }
    memcpy(out + 8 * count, &at, 8);
    return values + at;
}

static bool dz_any_taken_null(const dz_raw_column *column, const int64_t *indices, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (!column->validity[indices[i]]) return true;
    return false;
}

/* Whether the weights at some rows have to be told: one of them is not 1, or there is nothing but weights. */
static bool dz_weights_told(const int64_t *head, const uint8_t *weights, const int64_t *indices, int64_t count)
{
    if (!head[2]) return false;
    if (!head[1]) return true;
    for (int64_t i = 0; i < count; i++)
        if (dz_word_at(weights, indices[i]) != 1) return true;
    return false;
}

/* The batch of the rows at `indices` into `*out`: int64 sizes of weights and, of each column, of validity, offsets and
   values; then these. To be given back by dz_release. -1: no memory; -2: a place that there is not. */
DZ_EXPORT int64_t dz_batch_take(const int64_t *head, const uint8_t *const *blobs, const int64_t *indices, int64_t count,
                                uint8_t **out)
{
    int64_t columns = head[1];
    size_t sizes = 8 * (size_t)(1 + 3 * columns), size = sizes + 8 * (size_t)count;
    for (int64_t i = 0; i < count; i++)
        if (indices[i] < 0 || indices[i] >= head[0]) return -2;
    for (int64_t i = 0; i < columns; i++) {
        dz_raw_column column = dz_raw(head, blobs, i);
        size += 9 * (size_t)count;
        if (dz_raw_is_text(&column)) size += 8 + dz_texts_size(&column, indices, count);
    }
    uint8_t *block = malloc(size), *end = block + sizes;
    if (!block) return -1;
    *out = block;
    int64_t *told = (int64_t *)block;
    if (dz_weights_told(head, blobs[0], indices, count)) end = dz_gather_words(blobs[0], indices, count, end);
    *told++ = end - (block + sizes);
    for (int64_t i = 0; i < columns; i++) {
        dz_raw_column column = dz_raw(head, blobs, i);
        uint8_t *start = end;
        if (column.validity_bytes && dz_any_taken_null(&column, indices, count))
            end = dz_gather_bytes(column.validity, indices, count, end);
        *told++ = end - start;
        start = end;
        if (dz_raw_is_text(&column)) {
            end = dz_gather_texts(&column, indices, count, end);
            *told++ = 8 * (count + 1);
            *told++ = end - start - 8 * (count + 1);
        } else {
            end = (column.kind == DZ_BOOL ? dz_gather_bytes : dz_gather_words)(column.values, indices, count, end);
            *told++ = 0;
            *told++ = end - start;
        }
    }
    return 0;
}

DZ_EXPORT void dz_release(void *block) { free(block); }

/* `count` offsets, each with `by` added, into `out`. */
DZ_EXPORT void dz_shift(const uint8_t *offsets, int64_t count, uint64_t by, uint8_t *out)
{
    for (int64_t i = 0; i < count; i++) {
        uint64_t word = dz_word_at(offsets, i) + by;
        memcpy(out + 8 * i, &word, 8);
    }
}

/* The numbers from `first` on, `count` of them, as 8-byte words into `out`. */
DZ_EXPORT void dz_count(int64_t first, int64_t count, uint8_t *out)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t number = first + i;
        memcpy(out + 8 * i, &number, 8);
    }
}

#endif
