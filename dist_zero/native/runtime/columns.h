/* Columns of a message to rows, and rows to columns; the canonical order of rows; which shard owns a row.

What comes in is trusted: whoever received it has checked every length, offset and value (`dist_zero/batch.py`). A call
gets `head`, words that describe what there is, and `blobs`, pointers to the bytes of columns, both in the order in which
they are read. What goes out is written into one buffer of the node: words, and behind the words of a batch its columns,
each at a multiple of eight bytes, in the layout of `dist_zero/column_data.py`. */

#ifndef DZ_COLUMNS_H
#define DZ_COLUMNS_H

#include "core.h"
#include "xxh64.h"

/* ---- in ------------------------------------------------------------------------------------------------------- */

/* What a call was given, and how much of it has been read. */
typedef struct {
    const int64_t *head;
    const char *const *blobs;
} dz_reader;

/* One column of a batch; `validity` is NULL if there is no null in it, `offsets` if it is no text. As three `blobs` lie. */
typedef struct {
    const char *validity, *offsets, *values;
} dz_column;

/* The columns of a batch; `weights` is NULL if all are 1. */
typedef struct {
    uint32_t count;
    const char *weights;
    const dz_column *columns;
} dz_batch;

/* The next word of the head. */
static inline int64_t dz_read(dz_reader *reader)
{
    return *reader->head++;
}

/* The next words of the head. */
static inline const int64_t *dz_read_words(dz_reader *reader, int64_t count)
{
    const int64_t *words = reader->head;
    reader->head += count;
    return words;
}

/* The next batch, which has so many columns. */
static dz_batch dz_read_batch(dz_base *base, dz_reader *reader, int64_t columns)
{
    int64_t count = dz_read(reader);
    if (count < 0 || count > UINT32_MAX / 2) dz_raise(base, DZ_MALFORMED, "a batch that is too large");
    dz_batch batch = {(uint32_t)count, reader->blobs[0], (const dz_column *)(reader->blobs + 1)};
    reader->blobs += 1 + 3 * columns;
    return batch;
}

/* The weight of a row of a batch. */
static inline int64_t dz_batch_weight(const dz_batch *batch, uint32_t at)
{
    return batch->weights ? (int64_t)dz_load_word(batch->weights + 8 * (size_t)at) : 1;
}

/* Whether a value of a column is there. */
static inline bool dz_is_present(const dz_column *column, uint32_t at)
{
    return !column->validity || column->validity[at] != 0;
}

/* The word of a value of eight bytes; the place of a null holds zero. */
static inline uint64_t dz_column_word(const dz_column *column, uint32_t at)
{
    return dz_load_word(column->values + 8 * (size_t)at);
}

/* The word of a bool. */
static inline uint64_t dz_column_bool(const dz_column *column, uint32_t at)
{
    return (uint8_t)column->values[at];
}

/* The word of a text, whose column is not null there. */
static inline uint64_t dz_column_text(dz_base *base, const dz_column *column, uint32_t at)
{
    uint64_t start = dz_load_word(column->offsets + 8 * (size_t)at);
    uint64_t end = dz_load_word(column->offsets + 8 * (size_t)at + 8);
    return dz_word_of(dz_intern(base, column->values + start, (size_t)(end - start)));
}

/* One row of a batch of any shape. For what is done often, the renderer writes this out for the row type. */
static void dz_batch_row(dz_base *base, const dz_shape *shape, const dz_batch *batch, uint32_t at, uint64_t *row)
{
    for (uint32_t word = 0; word < shape->null_words; word++) row[word] = 0;
    for (uint32_t place = 0; place < shape->columns; place++) {
        const dz_column *column = &batch->columns[place];
        uint64_t *target = &row[shape->null_words + place];
        if (!dz_is_present(column, at)) {
            row[place / 64] |= (uint64_t)1 << (place % 64);
            *target = 0;
        } else if (shape->kinds[place] == DZ_BOOL)
            *target = dz_column_bool(column, at);
        else if (shape->kinds[place] == DZ_STR || shape->kinds[place] == DZ_BYTES)
            *target = dz_column_text(base, column, at);
        else
            *target = dz_column_word(column, at);
    }
}

/* ---- order ---------------------------------------------------------------------------------------------------- */

/* A row that is being put in order, and what it sorts by first. */
typedef struct {
    uint64_t key;
    const uint64_t *row;
} dz_sorted;

/* Whether a kind is kept as a text. */
static inline bool dz_is_text(uint8_t kind)
{
    return kind == DZ_STR || kind == DZ_BYTES;
}

/* A word that compares as the value does, unsigned; of a text, its first eight bytes do. NaN is behind all numbers. */
static inline uint64_t dz_order_word(uint8_t kind, uint64_t word)
{
    if (kind == DZ_BOOL) return word;
    if (kind == DZ_FLOAT) return word >> 63 ? ~word : word | (uint64_t)1 << 63;
    if (!dz_is_text(kind)) return word ^ (uint64_t)1 << 63;
    if (!word) return 0;
    const dz_text *text = dz_text_of(word);
    uint64_t first = 0;
    memcpy(&first, text->bytes, text->length < 8 ? text->length : 8);
    return __builtin_bswap64(first);
}

/* The order of two texts: by bytes, which for UTF-8 is by code point. */
static inline int dz_compare_texts(const dz_text *left, const dz_text *right)
{
    uint32_t length = left->length < right->length ? left->length : right->length;
    int found = memcmp(left->bytes, right->bytes, length);
    return found ? found : (left->length > right->length) - (left->length < right->length);
}

/* The order of two rows, column by column from this one on; null is last. */
static int dz_compare_from(const dz_shape *shape, uint32_t column, const uint64_t *left, const uint64_t *right)
{
    for (; column < shape->columns; column++) {
        bool left_null = dz_is_null(shape, left, column), right_null = dz_is_null(shape, right, column);
        if (left_null != right_null) return left_null ? 1 : -1;
        uint64_t a = left[shape->null_words + column], b = right[shape->null_words + column];
        if (a == b) continue;
        uint8_t kind = shape->kinds[column];
        if (dz_is_text(kind)) return dz_compare_texts(dz_text_of(a), dz_text_of(b));
        return dz_order_word(kind, a) < dz_order_word(kind, b) ? -1 : 1;
    }
    return 0;
}

/* Whether a row has a null or NaN: such rows come behind all others. */
static inline bool dz_comes_behind(const dz_shape *shape, const uint64_t *row)
{
    if (dz_any_null(shape, row)) return true;
    for (uint32_t column = 0; column < shape->columns; column++)
        if (shape->kinds[column] == DZ_FLOAT && row[shape->null_words + column] == DZ_NAN_BITS) return true;
    return false;
}

/* The canonical order of two rows. */
static int dz_compare_rows(const dz_shape *shape, const uint64_t *left, const uint64_t *right)
{
    bool left_behind = dz_comes_behind(shape, left), right_behind = dz_comes_behind(shape, right);
    if (left_behind != right_behind) return left_behind ? 1 : -1;
    return dz_compare_from(shape, 0, left, right);
}

#define DZ_FEW_ROWS 24u

/* Sorts few rows that are equal in front of this column. */
static void dz_sort_few(const dz_shape *shape, dz_sorted *rows, uint32_t count, uint32_t column)
{
    for (uint32_t at = 1; at < count; at++) {
        dz_sorted one = rows[at];
        uint32_t place = at;
        for (; place > 0 && dz_compare_from(shape, column, rows[place - 1].row, one.row) > 0; place--)
            rows[place] = rows[place - 1];
        rows[place] = one;
    }
}

/* Sorts rows that are equal in front of this column by comparing them, with room for as many beside. */
static void dz_sort_by_merging(const dz_shape *shape, dz_sorted *rows, dz_sorted *room, uint32_t count, uint32_t column)
{
    if (count <= DZ_FEW_ROWS) {
        dz_sort_few(shape, rows, count, column);
        return;
    }
    uint32_t half = count / 2;
    dz_sort_by_merging(shape, rows, room, half, column);
    dz_sort_by_merging(shape, rows + half, room, count - half, column);
    if (dz_compare_from(shape, column, rows[half - 1].row, rows[half].row) <= 0) return;
    memcpy(room, rows, half * sizeof *rows);
    uint32_t left = 0, right = half, place = 0;
    while (left < half && right < count)
        rows[place++] = dz_compare_from(shape, column, room[left].row, rows[right].row) <= 0 ? room[left++]
                                                                                              : rows[right++];
    memcpy(rows + place, room + left, (half - left) * sizeof *rows);
}

/* Sorts by `key`, one digit of eleven bits after the other, except those that are the same everywhere. Returns whether
   there was anything to do. */
static bool dz_sort_by_digits(dz_sorted *rows, dz_sorted *room, uint32_t count)
{
    enum { BITS = 11, DIGITS = 6, SIZE = 1 << BITS };
    uint64_t all_and = ~(uint64_t)0, all_or = 0;
    bool in_order = true;
    for (uint32_t at = 0; at < count; at++) {
        all_and &= rows[at].key;
        all_or |= rows[at].key;
        in_order &= at == 0 || rows[at - 1].key <= rows[at].key;
    }
    if (in_order) return false;
    uint64_t differs = all_and ^ all_or;
    dz_sorted *from = rows, *to = room;
    for (uint32_t digit = 0; digit < DIGITS; digit++) {
        uint32_t shift = digit * BITS, places[SIZE] = {0}, place = 0;
        if (!((differs >> shift) & (SIZE - 1))) continue;
        for (uint32_t at = 0; at < count; at++) places[(from[at].key >> shift) & (SIZE - 1)]++;
        for (uint32_t value = 0; value < SIZE; value++) {
            uint32_t here = places[value];
            places[value] = place;
            place += here;
        }
        for (uint32_t at = 0; at < count; at++) to[places[(from[at].key >> shift) & (SIZE - 1)]++] = from[at];
        dz_sorted *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != rows) memcpy(rows, from, count * sizeof *rows);
    return true;
}

/* Copies the items of rows to one place, in their order: what looks at them next goes through memory from the front to
   the back, in place of jumping. */
static void dz_gather(const dz_shape *shape, dz_sorted *rows, uint32_t count, uint64_t *items)
{
    size_t words = shape->words + 1;
    for (uint32_t at = 0; at < count; at++, items += words) {
        if (at + DZ_AHEAD < count) __builtin_prefetch(rows[at + DZ_AHEAD].row);
        memcpy(items, rows[at].row, words * sizeof *items);
        rows[at].row = items;
    }
}

/* Sorts rows without nulls that are equal in front of this column. `items`: room for them all, or NULL. */
static void dz_sort_plain(const dz_shape *shape, dz_sorted *rows, dz_sorted *room, uint32_t count, uint32_t column,
                          uint64_t *items)
{
    if (column >= shape->columns || count < 2) return;
    if (count <= DZ_FEW_ROWS) {
        dz_sort_few(shape, rows, count, column);
        return;
    }
    uint8_t kind = shape->kinds[column];
    uint32_t word = shape->null_words + column;
    for (uint32_t at = 0; at < count; at++) rows[at].key = dz_order_word(kind, rows[at].row[word]);
    if (dz_sort_by_digits(rows, room, count) && items) dz_gather(shape, rows, count, items);
    for (uint32_t start = 0, end; start < count; start = end) {
        bool same = true; /* not only what they sort by, but the values */
        for (end = start + 1; end < count && rows[end].key == rows[start].key; end++)
            same &= rows[end].row[word] == rows[start].row[word];
        if (end - start < 2) continue;
        if (same)
            dz_sort_plain(shape, rows + start, room, end - start, column + 1, NULL);
        else
            dz_sort_by_merging(shape, rows + start, room, end - start, column);
    }
}

/* Puts rows in canonical order, with room for as many beside. `items`: room for what they point to, or NULL. */
static void dz_sort(const dz_shape *shape, dz_sorted *rows, dz_sorted *room, uint32_t count, uint64_t *items)
{
    uint32_t plain = 0, behind = 0;
    for (uint32_t at = 0; at < count; at++) {
        if (dz_comes_behind(shape, rows[at].row))
            room[behind++] = rows[at];
        else
            rows[plain++] = rows[at];
    }
    if (behind) memcpy(rows + plain, room, behind * sizeof *rows);
    dz_sort_plain(shape, rows, room, plain, 0, items);
    if (behind) dz_sort_by_merging(shape, rows + plain, room, behind, 0);
}

#define DZ_MANY_ROWS 4096u
#define DZ_MANY_WORDS 16u

/* Items of a delta in canonical order. Where there are many and they are not too large, they are copied to `items`. */
typedef struct {
    dz_sorted *rows;
    uint32_t count, capacity;
    uint64_t *items;
    size_t room; /* in words */
} dz_order;

/* Makes room for so many rows, and for as many beside. */
static void dz_order_reserve(dz_base *base, dz_order *order, uint32_t count)
{
    if (count <= order->capacity) return;
    size_t size = 2 * sizeof *order->rows;
    dz_sorted *rows = dz_alloc(base, count * size);
    dz_free_memory(base, order->rows, order->capacity * size);
    order->rows = rows;
    order->capacity = count;
}

/* Gives the memory back. */
static void dz_order_free(dz_base *base, dz_order *order)
{
    dz_free_memory(base, order->rows, order->capacity * 2 * sizeof *order->rows);
    dz_free_memory(base, order->items, order->room * sizeof *order->items);
    *order = (dz_order){0};
}

/* Room for the items themselves; NULL where they stay where they are. */
static uint64_t *dz_order_items(dz_base *base, dz_order *order, const dz_shape *shape, uint32_t count)
{
    if (count < DZ_MANY_ROWS || shape->words >= DZ_MANY_WORDS) return NULL;
    size_t needed = (size_t)count * (shape->words + 1);
    if (needed > order->room) {
        uint64_t *items = dz_alloc(base, needed * sizeof *items);
        dz_free_memory(base, order->items, order->room * sizeof *items);
        order->items = items;
        order->room = needed;
    }
    return order->items;
}

/* Sorts what is in `order`, adds up the weights of equal rows, and leaves out what cancels. */
static void dz_order_settle(dz_base *base, dz_order *order, const dz_shape *shape)
{
    uint32_t count = order->count, left = 0;
    dz_sort(shape, order->rows, order->rows + order->capacity, count, dz_order_items(base, order, shape, count));
    for (uint32_t start = 0, end; start < count; start = end) {
        uint64_t *item = (uint64_t *)order->rows[start].row;
        int64_t weight = (int64_t)item[shape->words];
        for (end = start + 1; end < count && dz_row_equal(shape, item, order->rows[end].row); end++)
            weight = dz_add_weights(base, weight, (int64_t)order->rows[end].row[shape->words]);
        item[shape->words] = (uint64_t)weight;
        if (weight) order->rows[left++].row = item;
    }
    order->count = left;
}

/* The rows of a delta in canonical order, each once; the weights in the delta may be changed. */
static void dz_order_delta(dz_base *base, dz_order *order, const dz_delta *delta, const dz_shape *shape)
{
    dz_order_reserve(base, order, delta->count);
    order->count = delta->count;
    for (uint32_t at = 0; at < delta->count; at++) order->rows[at].row = dz_delta_row(delta, shape, at);
    dz_order_settle(base, order, shape);
}

/* ---- out ------------------------------------------------------------------------------------------------------ */

/* What a call says; its memory is the node's, and is used again by the next call. */
typedef struct {
    char *bytes;
    uint64_t length, capacity;
} dz_output;

/* Room for so many bytes more, at a multiple of eight; what is behind the last one is zero up to the next multiple. */
static char *dz_write_bytes(dz_base *base, dz_output *out, uint64_t length)
{
    uint64_t end = out->length + ((length + 7) & ~(uint64_t)7);
    if (end > out->capacity) {
        uint64_t capacity = out->capacity * 2 > end ? out->capacity * 2 : end < 4096 ? 4096 : end;
        out->bytes = dz_realloc(base, out->bytes, out->capacity, capacity);
        out->capacity = capacity;
    }
    char *place = out->bytes + out->length;
    if (length % 8) memset(out->bytes + end - 8, 0, 8);
    out->length = end;
    return place;
}

/* Says a word. */
static inline void dz_write(dz_base *base, dz_output *out, int64_t word)
{
    memcpy(dz_write_bytes(base, out, 8), &word, 8);
}

/* Says another word in a place where one was said. */
static inline void dz_write_at(dz_output *out, uint64_t place, int64_t word)
{
    memcpy(out->bytes + place, &word, 8);
}

/* Whether a column has a null in one of these rows. */
static bool dz_has_null(const dz_shape *shape, const dz_sorted *rows, uint32_t count, uint32_t column)
{
    if (!shape->nullable[column] || !shape->null_words) return false;
    for (uint32_t at = 0; at < count; at++)
        if (dz_is_null(shape, rows[at].row, column)) return true;
    return false;
}

/* Writes the texts of a column: offsets, then bytes. Returns how many bytes. */
static uint64_t dz_write_texts(dz_base *base, dz_output *out, const dz_sorted *rows, uint32_t count, uint32_t word)
{
    uint64_t length = 0;
    char *offsets = dz_write_bytes(base, out, 8 * ((uint64_t)count + 1));
    memcpy(offsets, &length, 8);
    for (uint32_t at = 0; at < count; at++) {
        const dz_text *text = dz_text_of(rows[at].row[word]);
        length += text ? text->length : 0;
        memcpy(offsets + 8 * ((size_t)at + 1), &length, 8);
    }
    char *values = dz_write_bytes(base, out, length);
    for (uint32_t at = 0; at < count; at++) {
        const dz_text *text = dz_text_of(rows[at].row[word]);
        if (!text) continue;
        memcpy(values, text->bytes, text->length);
        values += text->length;
    }
    return length;
}

/* Writes rows, each with its weight behind its words: how many, how long the weights are, and by column how long its
   validity and its values are; then all of these. `weighted`: the weights count. */
static void dz_write_rows(dz_base *base, dz_output *out, const dz_shape *shape, const dz_sorted *rows, uint32_t count,
                          bool weighted)
{
    bool explicit_weights = shape->columns == 0 && count != 0;
    for (uint32_t at = 0; weighted && !explicit_weights && at < count; at++)
        explicit_weights = rows[at].row[shape->words] != 1;
    dz_write(base, out, count);
    dz_write(base, out, explicit_weights ? 8 * (int64_t)count : 0);
    uint64_t lengths = out->length;
    dz_write_bytes(base, out, 16 * (uint64_t)shape->columns);
    if (explicit_weights) {
        char *weights = dz_write_bytes(base, out, 8 * (uint64_t)count);
        for (uint32_t at = 0; at < count; at++) {
            uint64_t weight = weighted ? rows[at].row[shape->words] : 1;
            memcpy(weights + 8 * (size_t)at, &weight, 8);
        }
    }
    for (uint32_t column = 0; column < shape->columns; column++) {
        uint8_t kind = shape->kinds[column];
        uint32_t word = shape->null_words + column;
        bool has_null = dz_has_null(shape, rows, count, column);
        uint64_t values_length = (kind == DZ_BOOL ? 1 : 8) * (uint64_t)count;
        if (has_null) {
            char *validity = dz_write_bytes(base, out, count);
            for (uint32_t at = 0; at < count; at++) validity[at] = !dz_is_null(shape, rows[at].row, column);
        }
        if (dz_is_text(kind))
            values_length = dz_write_texts(base, out, rows, count, word);
        else {
            char *values = dz_write_bytes(base, out, values_length);
            if (kind == DZ_BOOL)
                for (uint32_t at = 0; at < count; at++) values[at] = (char)rows[at].row[word];
            else
                for (uint32_t at = 0; at < count; at++) memcpy(values + 8 * (size_t)at, &rows[at].row[word], 8);
        }
        dz_write_at(out, lengths + 16 * (uint64_t)column, has_null ? count : 0);
        dz_write_at(out, lengths + 16 * (uint64_t)column + 8, (int64_t)values_length);
    }
}

/* Writes a delta as it is, without order. */
static void dz_write_delta(dz_base *base, dz_output *out, dz_order *order, const dz_delta *delta, const dz_shape *shape)
{
    dz_order_reserve(base, order, delta->count);
    for (uint32_t at = 0; at < delta->count; at++) order->rows[at].row = dz_delta_row(delta, shape, at);
    dz_write_rows(base, out, shape, order->rows, delta->count, true);
}

/* ---- shards --------------------------------------------------------------------------------------------------- */

/* The shard that owns a hash, given the last hash of each. */
static inline uint32_t dz_owner(const uint64_t *lasts, uint32_t shards, uint64_t hash)
{
    uint32_t low = 0, high = shards - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (lasts[middle] < hash)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- what waits ----------------------------------------------------------------------------------------------- */

/* Changes by epoch, for a later stage or for the end of the epoch. Their texts are held. */
typedef struct {
    int64_t epoch;
    dz_delta delta;
} dz_waiting_epoch;

typedef struct {
    dz_delta now;   /* what the running step adds */
    dz_delta taken; /* what it works on */
    dz_waiting_epoch *epochs;
    uint32_t count, capacity;
} dz_waiting;

/* At the end of a step: lets what it added wait for this epoch. */
static void dz_wait(dz_base *base, dz_waiting *waiting, const dz_shape *shape, int64_t epoch)
{
    if (!waiting->now.count) return;
    if (waiting->count == waiting->capacity) {
        uint32_t capacity = waiting->capacity ? waiting->capacity * 2 : 4;
        waiting->epochs = dz_realloc(base, waiting->epochs, waiting->capacity * sizeof *waiting->epochs,
                                     capacity * sizeof *waiting->epochs);
        waiting->capacity = capacity;
    }
    dz_delta_hold(base, &waiting->now, shape);
    waiting->epochs[waiting->count++] = (dz_waiting_epoch){epoch, waiting->now};
    waiting->now = (dz_delta){0};
}

/* Takes out what waits for an epoch, which is nothing, perhaps; until `dz_waited`. */
static dz_delta *dz_take_waiting(dz_waiting *waiting, int64_t epoch)
{
    for (uint32_t at = 0; at < waiting->count; at++)
        if (waiting->epochs[at].epoch == epoch) {
            waiting->taken = waiting->epochs[at].delta;
            waiting->count--;
            memmove(waiting->epochs + at, waiting->epochs + at + 1, (waiting->count - at) * sizeof *waiting->epochs);
            break;
        }
    return &waiting->taken;
}

/* The end of work on what was taken out, so that the next step may use its memory. Its rows are there until the call
   ends. */
static void dz_waited(dz_base *base, dz_waiting *waiting, const dz_shape *shape)
{
    dz_delta_drop(base, &waiting->taken, shape);
    if (waiting->taken.capacity > waiting->now.capacity && !waiting->now.count) {
        dz_delta swapped = waiting->now;
        waiting->now = waiting->taken;
        waiting->taken = swapped;
        dz_delta_clear(&waiting->now);
    }
    dz_delta_free(base, &waiting->taken, shape);
}

/* Frees all that waits. */
static void dz_waiting_free(dz_base *base, dz_waiting *waiting, const dz_shape *shape)
{
    for (uint32_t at = 0; at < waiting->count; at++) dz_delta_free(base, &waiting->epochs[at].delta, shape);
    dz_free_memory(base, waiting->epochs, waiting->capacity * sizeof *waiting->epochs);
    dz_delta_free(base, &waiting->now, shape);
    dz_delta_free(base, &waiting->taken, shape);
    *waiting = (dz_waiting){0};
}

#endif
