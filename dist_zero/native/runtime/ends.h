/* The ends of a plan: sources with a key, which turn writes into changes, and the rows of views.

Rows with a key are kept by it. An entry has the words of the key, the words of the other columns (the *rest*), and a
word of marks, so no column is there twice. `split` and `join`, which the renderer writes, go from a row to an entry and
back. While a step changes a table, nothing is removed from it: an entry that is gone is not `present` any more, and
goes when the step is through; so entries can be told by their places meanwhile. */

#ifndef DZ_ENDS_H
#define DZ_ENDS_H

#include "columns.h"
#include "table.h"

/* The bits of the word of marks; above them, the stamp with which it was noted that the entry was touched. */
enum { DZ_PRESENT = 1, DZ_SEEN = 2, DZ_STAMP = 4 };

/* Rows of one type by their key. `split` writes key and rest behind each other. */
typedef struct {
    const dz_shape *row, *key, *rest;
    void (*split)(const uint64_t *row, uint64_t *entry);
    void (*join)(const uint64_t *entry, uint64_t *row);
} dz_keyed_type;

/* How many words an entry has beside its key. */
static inline uint32_t dz_keyed_extra(const dz_keyed_type *type)
{
    return type->rest->words + 1;
}

/* An entry of a table of rows by key. */
static inline uint64_t *dz_keyed_entry(const dz_kept *kept, const dz_keyed_type *type, uint32_t at)
{
    return dz_table_entry(&kept->rows, type->key, dz_keyed_extra(type), at);
}

/* The rest of an entry. */
static inline uint64_t *dz_keyed_rest(const dz_keyed_type *type, uint64_t *entry)
{
    return entry + type->key->words;
}

/* The marks of an entry. */
static inline uint64_t *dz_keyed_marks(const dz_keyed_type *type, uint64_t *entry)
{
    return entry + type->key->words + type->rest->words;
}

/* Gives an entry other values than those of its key. */
static inline void dz_keyed_set(dz_base *base, const dz_keyed_type *type, uint64_t *entry, const uint64_t *rest)
{
    dz_row_hold(base, type->rest, rest);
    dz_row_drop(base, type->rest, dz_keyed_rest(type, entry));
    dz_row_copy(type->rest, dz_keyed_rest(type, entry), rest);
}

/* Notes that an entry is touched. */
static inline void dz_keyed_note(dz_base *base, dz_kept *kept, const dz_keyed_type *type, uint64_t *entry)
{
    uint64_t *marks = dz_keyed_marks(type, entry);
    if (!kept->tracked || *marks / DZ_STAMP == kept->stamp) return;
    dz_kept_note(base, kept, type->key, entry, dz_row_hash(type->key, entry), NULL);
    *marks = *marks % DZ_STAMP | kept->stamp * DZ_STAMP;
}

/* Removes an entry. */
static inline void dz_keyed_remove(dz_base *base, dz_kept *kept, const dz_keyed_type *type, uint64_t *entry)
{
    dz_row_drop(base, type->rest, dz_keyed_rest(type, entry));
    dz_table_remove(base, &kept->rows, type->key, dz_keyed_extra(type), entry);
}

/* The entry of a key, NULL if there is none. */
static inline uint64_t *dz_keyed_find(const dz_kept *kept, const dz_keyed_type *type, const uint64_t *key)
{
    return dz_table_find(&kept->rows, type->key, dz_keyed_extra(type), key, dz_row_hash(type->key, key));
}

/* Takes a row in or, if its weight is negative, back, without a note: from a save. */
static void dz_keyed_take(dz_base *base, dz_kept *kept, const dz_keyed_type *type, const uint64_t *row, int64_t weight)
{
    uint64_t split[type->key->words + type->rest->words + 1];
    type->split(row, split);
    if (weight < 0) {
        uint64_t *gone = dz_keyed_find(kept, type, split);
        if (!gone) dz_raise(base, DZ_MALFORMED, "a row is taken back that is not there");
        dz_keyed_remove(base, kept, type, gone);
        return;
    }
    bool is_new;
    uint64_t *entry = dz_table_put(base, &kept->rows, type->key, dz_keyed_extra(type), split,
                                   dz_row_hash(type->key, split), &is_new);
    dz_keyed_set(base, type, entry, dz_keyed_rest(type, split));
    *dz_keyed_marks(type, entry) |= DZ_PRESENT;
}

/* Adds all rows to a delta. */
static void dz_keyed_entries(dz_base *base, const dz_kept *kept, const dz_keyed_type *type, dz_delta *out)
{
    dz_delta_reserve(base, out, type->row, (uint64_t)out->count + kept->rows.count);
    for (uint32_t at = 0; at < kept->rows.count; at++)
        type->join(dz_keyed_entry(kept, type, at), dz_delta_place(base, out, type->row, 1));
}

/* Adds the row of a key to a delta, if there is one. */
static bool dz_keyed_get(dz_base *base, const dz_kept *kept, const dz_keyed_type *type, const uint64_t *key,
                         dz_delta *out)
{
    uint64_t *entry = dz_keyed_find(kept, type, key);
    if (entry) type->join(entry, dz_delta_place(base, out, type->row, 1));
    return entry != NULL;
}

/* Adds what was touched to two deltas: rows that are there, keys that are not. */
static void dz_keyed_touched(dz_base *base, const dz_kept *kept, const dz_keyed_type *type, dz_delta *puts,
                             dz_delta *gone)
{
    for (uint32_t at = 0; at < kept->touched.count; at++) {
        const uint64_t *key = dz_table_entry(&kept->touched, type->key, 0, at);
        if (!dz_keyed_get(base, kept, type, key, puts)) dz_delta_add(base, gone, type->key, key, 1);
    }
}

/* Frees a table of rows by key. */
static void dz_keyed_free(dz_base *base, dz_kept *kept, const dz_keyed_type *type)
{
    for (uint32_t at = 0; type->rest->texts && at < kept->rows.count; at++)
        dz_row_drop(base, type->rest, dz_keyed_rest(type, dz_keyed_entry(kept, type, at)));
    dz_kept_free(base, kept, type->key, dz_keyed_extra(type));
}

/* ---- places --------------------------------------------------------------------------------------------------- */

/* Words that a step collects. */
typedef struct {
    uint64_t *words;
    uint32_t count, capacity;
} dz_words;

/* Room for so many words more. */
static inline uint64_t *dz_words_add(dz_base *base, dz_words *words, uint32_t count)
{
    if (DZ_UNLIKELY((uint64_t)words->count + count > words->capacity)) {
        uint64_t capacity = (uint64_t)words->capacity * 2 + count + 64;
        if (capacity > UINT32_MAX) dz_raise(base, DZ_NO_MEMORY, "more changes in one step than a node can hold");
        words->words = dz_realloc(base, words->words, words->capacity * 8ul, capacity * 8);
        words->capacity = (uint32_t)capacity;
    }
    words->count += count;
    return words->words + words->count - count;
}

/* Gives the memory back. */
static inline void dz_words_free(dz_base *base, dz_words *words)
{
    dz_free_memory(base, words->words, words->capacity * 8ul);
    *words = (dz_words){0};
}

/* ---- sources -------------------------------------------------------------------------------------------------- */

enum { DZ_PUT, DZ_UPDATE, DZ_DELETE, DZ_APPEND };

/* Writes of one kind. `columns`: which columns of the dataset the batch has. */
typedef struct {
    int64_t kind;
    const int64_t *columns;
    int64_t column_count;
    const char *transactions, *rows;
    dz_batch batch;
} dz_writes;

/* Where a write is, and where in the epoch. */
typedef struct {
    uint64_t transaction, row;
    uint32_t writes, at;
} dz_write_place;

/* A source with a key. `missed`: writes of the running step that found no row. `before`: by entry that the step has
   looked at, its place, whether it was there, and its rest as it was. */
typedef struct {
    dz_kept kept;
    int64_t missed;
    dz_words before;
    dz_write_place *places;
    uint32_t place_capacity;
    dz_writes *writes;
    uint32_t writes_count, writes_capacity;
} dz_source;

/* The next writes of the call. */
static dz_writes dz_read_writes(dz_base *base, dz_reader *reader)
{
    dz_writes writes = {.kind = dz_read(reader)};
    writes.column_count = dz_read(reader);
    writes.columns = dz_read_words(reader, writes.column_count);
    writes.transactions = *reader->blobs++;
    writes.rows = *reader->blobs++;
    writes.batch = dz_read_batch(base, reader, writes.column_count);
    return writes;
}

/* Lets a source with a key have these writes in the running step. */
static void dz_source_add(dz_base *base, dz_source *source, const dz_writes *writes)
{
    if (source->writes_count == source->writes_capacity) {
        uint32_t capacity = source->writes_capacity * 2 + 4;
        source->writes = dz_realloc(base, source->writes, source->writes_capacity * sizeof *writes,
                                    capacity * sizeof *writes);
        source->writes_capacity = capacity;
    }
    source->writes[source->writes_count++] = *writes;
}

/* The order of two writes. */
static int dz_compare_places(const void *left, const void *right)
{
    const dz_write_place *a = left, *b = right;
    if (a->transaction != b->transaction) return a->transaction < b->transaction ? -1 : 1;
    return (a->row > b->row) - (a->row < b->row);
}

/* All writes of the step in the order of transaction and row; how many. */
static uint32_t dz_source_order(dz_base *base, dz_source *source)
{
    uint64_t count = 0;
    for (uint32_t number = 0; number < source->writes_count; number++) count += source->writes[number].batch.count;
    if (count > source->place_capacity) {
        dz_write_place *places = dz_alloc(base, count * sizeof *places);
        dz_free_memory(base, source->places, source->place_capacity * sizeof *places);
        source->places = places;
        source->place_capacity = (uint32_t)count;
    }
    bool in_order = true;
    dz_write_place *place = source->places;
    for (uint32_t number = 0; number < source->writes_count; number++) {
        const dz_writes *writes = &source->writes[number];
        for (uint32_t at = 0; at < writes->batch.count; at++, place++) {
            *place = (dz_write_place){dz_load_word(writes->transactions + 8 * (size_t)at),
                                      dz_load_word(writes->rows + 8 * (size_t)at), number, at};
            in_order = in_order && (place == source->places || dz_compare_places(place - 1, place) < 0);
        }
    }
    if (!in_order) qsort(source->places, count, sizeof *source->places, dz_compare_places);
    return (uint32_t)count;
}

/* Sets those columns of a row that an update has. They stand in the batch behind the `keys` columns of the key. */
static void dz_update_row(dz_base *base, const dz_shape *shape, const dz_writes *writes, uint32_t at, uint32_t keys,
                          uint64_t *row)
{
    for (int64_t place = keys; place < writes->column_count; place++) {
        const dz_column *column = &writes->batch.columns[place];
        uint32_t target = (uint32_t)writes->columns[place];
        uint64_t *word = &row[shape->null_words + target];
        if (shape->null_words) row[target / 64] &= ~((uint64_t)1 << (target % 64));
        if (!dz_is_present(column, at)) {
            row[target / 64] |= (uint64_t)1 << (target % 64);
            *word = 0;
        } else if (dz_is_text(shape->kinds[target]))
            *word = dz_column_text(base, column, at);
        else
            *word = shape->kinds[target] == DZ_BOOL ? dz_column_bool(column, at) : dz_column_word(column, at);
    }
}

/* The entry of a key, remembered as it is before the step changes it. */
static inline uint64_t *dz_source_look(dz_base *base, dz_source *source, const dz_keyed_type *type, const uint64_t *key)
{
    bool is_new;
    uint64_t *entry = dz_table_put(base, &source->kept.rows, type->key, dz_keyed_extra(type), key,
                                   dz_row_hash(type->key, key), &is_new);
    uint64_t *marks = dz_keyed_marks(type, entry);
    if (*marks & DZ_SEEN) return entry;
    uint64_t *before = dz_words_add(base, &source->before, 2 + type->rest->words);
    before[0] = (uint64_t)(entry - source->kept.rows.entries) / dz_table_stride(type->key, dz_keyed_extra(type));
    before[1] = *marks & DZ_PRESENT;
    dz_row_copy(type->rest, before + 2, dz_keyed_rest(type, entry));
    *marks |= DZ_SEEN;
    return entry;
}

/* Applies one write. `row_of` and `key_of` make a row or a key of columns. */
static inline void dz_source_write(dz_base *base, dz_source *source, const dz_keyed_type *type, const dz_writes *writes,
                                   uint32_t at, void (*row_of)(dz_base *, const dz_batch *, uint32_t, uint64_t *),
                                   void (*key_of)(dz_base *, const dz_batch *, uint32_t, uint64_t *))
{
    uint64_t row[type->row->words + 1], split[type->key->words + type->rest->words + 1];
    if (writes->kind == DZ_PUT) {
        row_of(base, &writes->batch, at, row);
        type->split(row, split);
    } else
        key_of(base, &writes->batch, at, split);
    uint64_t *entry = dz_source_look(base, source, type, split), *marks = dz_keyed_marks(type, entry);
    if (writes->kind == DZ_PUT) {
        dz_keyed_set(base, type, entry, dz_keyed_rest(type, split));
        *marks |= DZ_PRESENT;
    } else if (!(*marks & DZ_PRESENT)) {
        source->missed++;
    } else if (writes->kind == DZ_DELETE) {
        *marks &= ~(uint64_t)DZ_PRESENT;
    } else {
        type->join(entry, row);
        dz_update_row(base, type->row, writes, at, type->key->columns, row);
        type->split(row, split);
        dz_keyed_set(base, type, entry, dz_keyed_rest(type, split));
    }
}

/* The order of places, the last first. */
static int dz_compare_from_the_end(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a < b) - (a > b);
}

/* Removes the entries that the step has looked at and that are not there. The last ones go first, so that what takes
   the place of one is nothing that is still to go. */
static void dz_source_forget(dz_base *base, dz_source *source, const dz_keyed_type *type)
{
    uint32_t gone = 0;
    uint64_t *places = source->before.words;
    for (uint32_t at = 0; at < source->before.count; at += 2 + type->rest->words)
        if (!(*dz_keyed_marks(type, dz_keyed_entry(&source->kept, type, (uint32_t)places[at])) & DZ_PRESENT))
            places[gone++] = places[at];
    if (gone > 1) qsort(places, gone, sizeof *places, dz_compare_from_the_end);
    for (uint32_t at = 0; at < gone; at++)
        dz_keyed_remove(base, &source->kept, type, dz_keyed_entry(&source->kept, type, (uint32_t)places[at]));
}

/* Emits what the step has changed, and removes the entries that are gone. */
static inline void dz_source_changes(dz_base *base, dz_source *source, const dz_keyed_type *type,
                                     void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    dz_kept *kept = &source->kept;
    uint32_t stride = 2 + type->rest->words;
    uint64_t row[type->row->words + 1], old[type->key->words + type->rest->words + 1];
    for (uint32_t at = 0; at < source->before.count; at += stride) {
        const uint64_t *before = source->before.words + at;
        uint64_t *entry = dz_keyed_entry(kept, type, (uint32_t)before[0]), *marks = dz_keyed_marks(type, entry);
        bool was_there = before[1] != 0, is_there = (*marks & DZ_PRESENT) != 0;
        *marks &= ~(uint64_t)DZ_SEEN;
        if (was_there == is_there &&
            (!is_there || dz_row_equal(type->rest, before + 2, dz_keyed_rest(type, entry))))
            continue;
        dz_keyed_note(base, kept, type, entry);
        if (was_there) {
            dz_row_copy(type->key, old, entry);
            dz_row_copy(type->rest, dz_keyed_rest(type, old), before + 2);
            type->join(old, row);
            emit(base, row, -1);
        }
        if (is_there) {
            type->join(entry, row);
            emit(base, row, 1);
        }
    }
    dz_source_forget(base, source, type);
    source->before.count = 0;
}

/* Applies the writes of the step. */
static inline void dz_source_apply(dz_base *base, dz_source *source, const dz_keyed_type *type,
                                   void (*row_of)(dz_base *, const dz_batch *, uint32_t, uint64_t *),
                                   void (*key_of)(dz_base *, const dz_batch *, uint32_t, uint64_t *),
                                   void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    if (!source->writes_count) return;
    uint32_t count = dz_source_order(base, source);
    for (uint32_t at = 0; at < count; at++) {
        const dz_write_place *place = &source->places[at];
        dz_source_write(base, source, type, &source->writes[place->writes], place->at, row_of, key_of);
    }
    dz_source_changes(base, source, type, emit);
    source->writes_count = 0;
}

/* Frees a source. */
static void dz_source_free(dz_base *base, dz_source *source, const dz_keyed_type *type)
{
    dz_keyed_free(base, &source->kept, type);
    dz_words_free(base, &source->before);
    dz_free_memory(base, source->places, source->place_capacity * sizeof *source->places);
    dz_free_memory(base, source->writes, source->writes_capacity * sizeof *source->writes);
}

/* ---- views ---------------------------------------------------------------------------------------------------- */

/* So many rows are looked at together, so that memory is on its way while the first of them are worked on. */
#define DZ_TOGETHER 32u

/* One change of a view with a key, whose row is split into key and rest; how many more entries are gone. A row that is
   taken back is the one that is there, unless the one that takes its place has come already. */
static inline int dz_view_change(dz_base *base, dz_kept *kept, const dz_keyed_type *type, const uint64_t *split,
                                 uint64_t hash, int64_t weight)
{
    uint32_t extra = dz_keyed_extra(type);
    const uint64_t *rest = split + type->key->words;
    if (weight < 0) {
        uint64_t *entry = dz_table_find(&kept->rows, type->key, extra, split, hash);
        if (!entry) dz_raise(base, DZ_BUG, "a view lacks a row that is taken back");
        if (!dz_row_equal(type->rest, rest, dz_keyed_rest(type, entry))) return 0;
        *dz_keyed_marks(type, entry) &= ~(uint64_t)DZ_PRESENT;
        dz_keyed_note(base, kept, type, entry);
        return 1;
    }
    bool is_new;
    uint64_t *entry = dz_table_put(base, &kept->rows, type->key, extra, split, hash, &is_new);
    uint64_t *marks = dz_keyed_marks(type, entry);
    bool was_gone = !is_new && !(*marks & DZ_PRESENT);
    dz_keyed_set(base, type, entry, rest);
    *marks |= DZ_PRESENT;
    dz_keyed_note(base, kept, type, entry);
    return was_gone ? -1 : 0;
}

/* Removes the entries of rows that were taken back, in whose place nothing came. */
static void dz_view_forget(dz_base *base, dz_kept *kept, const dz_keyed_type *type, const dz_order *changes)
{
    uint64_t split[type->key->words + type->rest->words + 1];
    for (uint32_t at = 0; at < changes->count; at++) {
        const uint64_t *row = changes->rows[at].row;
        if ((int64_t)row[type->row->words] > 0) continue;
        type->split(row, split);
        uint64_t *entry = dz_keyed_find(kept, type, split);
        if (entry && !(*dz_keyed_marks(type, entry) & DZ_PRESENT)) dz_keyed_remove(base, kept, type, entry);
    }
}

/* Changes the rows of a view with a key, each of which is there once. `changes`: what is to change, each row once. */
static inline void dz_view_replace(dz_base *base, dz_kept *kept, const dz_keyed_type *type, const dz_order *changes)
{
    uint32_t words = type->key->words + type->rest->words + 1;
    uint64_t splits[DZ_TOGETHER * words], hashes[DZ_TOGETHER];
    int64_t gone = 0;
    for (uint32_t start = 0; start < changes->count; start += DZ_TOGETHER) {
        uint32_t some = changes->count - start < DZ_TOGETHER ? changes->count - start : DZ_TOGETHER;
        for (uint32_t at = 0; at < some; at++) {
            type->split(changes->rows[start + at].row, splits + at * words);
            hashes[at] = dz_row_hash(type->key, splits + at * words);
            dz_table_prefetch(&kept->rows, hashes[at]);
        }
        for (uint32_t at = 0; at < some; at++)
            dz_table_prefetch_entry(&kept->rows, type->key, dz_keyed_extra(type), hashes[at]);
        for (uint32_t at = 0; at < some; at++)
            gone += dz_view_change(base, kept, type, splits + at * words, hashes[at],
                                   (int64_t)changes->rows[start + at].row[type->row->words]);
    }
    if (gone) dz_view_forget(base, kept, type, changes);
}

/* Changes the rows of a Z-set. */
static void dz_zset_change(dz_base *base, dz_kept *kept, const dz_shape *shape, const dz_order *changes)
{
    for (uint32_t at = 0; at < changes->count; at++) {
        const uint64_t *row = changes->rows[at].row;
        dz_kept_add(base, kept, shape, row, dz_row_hash(shape, row), (int64_t)row[shape->words]);
    }
}

/* ---- Z-sets --------------------------------------------------------------------------------------------------- */

/* Adds all rows of a Z-set to a delta; `extra`: how many words of payload they have. */
static void dz_zset_entries(dz_base *base, const dz_table *rows, const dz_shape *shape, uint32_t extra, dz_delta *out)
{
    dz_delta_reserve(base, out, shape, (uint64_t)out->count + rows->count);
    for (uint32_t at = 0; at < rows->count; at++) {
        const uint64_t *entry = dz_table_entry(rows, shape, extra, at);
        dz_delta_add(base, out, shape, entry, (int64_t)entry[shape->words + DZ_ZSET_WEIGHT]);
    }
}

/* Adds a row of a Z-set to a delta, if it is there. */
static bool dz_zset_get(dz_base *base, const dz_kept *kept, const dz_shape *shape, uint32_t extra, const uint64_t *row,
                        dz_delta *out)
{
    const uint64_t *entry = dz_table_find(&kept->rows, shape, extra, row, dz_row_hash(shape, row));
    int64_t weight = entry ? (int64_t)entry[shape->words + DZ_ZSET_WEIGHT] : 0;
    if (weight) dz_delta_add(base, out, shape, row, weight);
    return weight != 0;
}

/* Adds what was touched of a Z-set to two deltas: rows that are there, and those that are not. */
static void dz_zset_touched(dz_base *base, const dz_kept *kept, const dz_shape *shape, uint32_t extra, dz_delta *puts,
                            dz_delta *gone)
{
    for (uint32_t at = 0; at < kept->touched.count; at++) {
        const uint64_t *row = dz_table_entry(&kept->touched, shape, 0, at);
        if (!dz_zset_get(base, kept, shape, extra, row, puts)) dz_delta_add(base, gone, shape, row, 1);
    }
}

#endif
