/* A hash table of dense entries, and with it what is kept of a Z-set or by key.

An entry is the words of a key and `extra` words of payload. Entries lie one behind the other in the order in which they
came; where one is removed, the last takes its place. So going through them is fast, and the same in every process. Beside
them is an index by open addressing: a slot has the upper half of a key's hash and the number of its entry from 1 on, 0
where it is free. With the half hash, a slot knows where it would like to be, so the index grows without a look at keys.

Pointers to entries are good until the next put or removal. A table holds the texts of its keys; those in a payload are
the owner's business.

Looking up many: hashes first, then `dz_table_prefetch` some keys ahead and `dz_table_prefetch_entry` fewer ahead, then
the lookup, whose memory is there by now. */

#ifndef DZ_TABLE_H
#define DZ_TABLE_H

#include "core.h"

/* All zero is an empty table. `capacity` is of entries; `mask` + 1 are the slots. */
typedef struct {
    uint64_t *entries;
    uint64_t *slots;
    uint32_t count, capacity;
    uint32_t mask;
} dz_table;

/* How many words an entry has. */
static inline uint32_t dz_table_stride(const dz_shape *shape, uint32_t extra)
{
    return shape->words + extra;
}

/* Entry number `at`, from 0 on: its key, and behind it the payload. */
static inline uint64_t *dz_table_entry(const dz_table *table, const dz_shape *shape, uint32_t extra, uint32_t at)
{
    return table->entries + (size_t)at * dz_table_stride(shape, extra);
}

/* Has the slot of a key with this hash be read into the cache. */
static inline void dz_table_prefetch(const dz_table *table, uint64_t hash)
{
    if (table->slots) __builtin_prefetch(&table->slots[(uint32_t)(hash >> 32) & table->mask]);
}

/* Has the entry that is most likely the key's be read into the cache; its slot should be there by now. */
static inline void dz_table_prefetch_entry(const dz_table *table, const dz_shape *shape, uint32_t extra, uint64_t hash)
{
    if (!table->slots) return;
    uint32_t number = (uint32_t)table->slots[(uint32_t)(hash >> 32) & table->mask];
    if (!number) return;
    const uint64_t *entry = dz_table_entry(table, shape, extra, number - 1);
    __builtin_prefetch(entry);
    if (dz_table_stride(shape, extra) > 2) __builtin_prefetch(entry + dz_table_stride(shape, extra) - 1);
}

/* The entry of a key; NULL: there is none. */
static inline uint64_t *dz_table_find(const dz_table *table, const dz_shape *shape, uint32_t extra, const uint64_t *key,
                                      uint64_t hash)
{
    if (table->count == 0) return NULL;
    const uint64_t *slots = table->slots;
    uint32_t mark = (uint32_t)(hash >> 32), mask = table->mask;
    for (uint32_t place = mark & mask; slots[place]; place = (place + 1) & mask)
        if ((uint32_t)(slots[place] >> 32) == mark) {
            uint64_t *entry = dz_table_entry(table, shape, extra, (uint32_t)slots[place] - 1);
            if (dz_row_equal(shape, entry, key)) return entry;
        }
    return NULL;
}

/* Puts a slot in the first free place from where it would like to be. */
static inline void dz_table_place(uint64_t *slots, uint32_t mask, uint64_t slot)
{
    uint32_t place = (uint32_t)(slot >> 32) & mask;
    while (slots[place]) place = (place + 1) & mask;
    slots[place] = slot;
}

#define DZ_TABLE_COUNT_MAX (3u << 30)

/* Makes room for so many entries in all: at most three quarters of the slots are taken. */
__attribute__((noinline)) static void dz_table_reserve(dz_base *base, dz_table *table, uint32_t stride, uint64_t count)
{
    if (count > DZ_TABLE_COUNT_MAX) dz_raise(base, DZ_NO_MEMORY, "more entries in a table than it can hold");
    if (count > table->capacity) {
        uint64_t capacity = (uint64_t)table->capacity * 2 > 8 ? (uint64_t)table->capacity * 2 : 8;
        if (capacity < count) capacity = count;
        if (capacity > DZ_TABLE_COUNT_MAX) capacity = DZ_TABLE_COUNT_MAX;
        size_t entry = (size_t)stride * 8;
        table->entries = dz_realloc(base, table->entries, table->capacity * entry, capacity * entry);
        table->capacity = (uint32_t)capacity;
    }
    uint64_t old_size = table->slots ? (uint64_t)table->mask + 1 : 0;
    if (count * 4 <= old_size * 3) return;
    uint64_t size = old_size ? old_size * 2 : 16;
    while (count * 4 > size * 3) size *= 2;
    uint64_t *slots = dz_alloc_zeroed(base, size * sizeof *slots);
    for (uint64_t place = 0; place < old_size; place++)
        if (table->slots[place]) dz_table_place(slots, (uint32_t)(size - 1), table->slots[place]);
    dz_free_memory(base, table->slots, old_size * sizeof *slots);
    table->slots = slots;
    table->mask = (uint32_t)(size - 1);
}

/* Adds an entry for a key that is not there yet, with a payload of zeros. */
static inline uint64_t *dz_table_append(dz_base *base, dz_table *table, const dz_shape *shape, uint32_t extra,
                                        const uint64_t *key, uint64_t hash)
{
    uint64_t count = (uint64_t)table->count + 1;
    if (DZ_UNLIKELY(count > table->capacity || count * 4 > ((uint64_t)table->mask + 1) * 3))
        dz_table_reserve(base, table, dz_table_stride(shape, extra), count);
    uint64_t *entry = dz_table_entry(table, shape, extra, table->count++);
    dz_row_copy(shape, entry, key);
    for (uint32_t word = 0; word < extra; word++) entry[shape->words + word] = 0;
    dz_row_hold(base, shape, key);
    dz_table_place(table->slots, table->mask, (hash >> 32) << 32 | table->count);
    return entry;
}

/* The entry of a key; if there was none, a new one with a payload of zeros. */
static inline uint64_t *dz_table_put(dz_base *base, dz_table *table, const dz_shape *shape, uint32_t extra,
                                     const uint64_t *key, uint64_t hash, bool *is_new)
{
    uint64_t *entry = dz_table_find(table, shape, extra, key, hash);
    *is_new = entry == NULL;
    return entry ? entry : dz_table_append(base, table, shape, extra, key, hash);
}

/* The place of the slot of entry number `number` (from 1 on), whose hash is given. */
static inline uint32_t dz_table_slot_of(const dz_table *table, uint64_t hash, uint32_t number)
{
    uint64_t slot = (hash >> 32) << 32 | number;
    uint32_t place = (uint32_t)(hash >> 32) & table->mask;
    while (table->slots[place] != slot) place = (place + 1) & table->mask;
    return place;
}

/* Removes an entry; the last one takes its place. */
static inline void dz_table_remove(dz_base *base, dz_table *table, const dz_shape *shape, uint32_t extra,
                                   uint64_t *entry)
{
    uint32_t mask = table->mask, stride = dz_table_stride(shape, extra);
    uint64_t *slots = table->slots;
    uint32_t number = (uint32_t)((size_t)(entry - table->entries) / (stride ? stride : 1)) + 1;
    uint32_t place = dz_table_slot_of(table, dz_row_hash(shape, entry), number);
    for (uint32_t next = (place + 1) & mask; slots[next]; next = (next + 1) & mask) {
        uint32_t home = (uint32_t)(slots[next] >> 32) & mask;
        if (((next - home) & mask) >= ((next - place) & mask)) {
            slots[place] = slots[next];
            place = next;
        }
    }
    slots[place] = 0;
    dz_row_drop(base, shape, entry);
    if (number != table->count) {
        const uint64_t *last = dz_table_entry(table, shape, extra, table->count - 1);
        uint64_t hash = dz_row_hash(shape, last);
        slots[dz_table_slot_of(table, hash, table->count)] = (hash >> 32) << 32 | number;
        memcpy(entry, last, (size_t)stride * 8);
    }
    table->count--;
}

/* Gives the memory back. */
static inline void dz_table_free(dz_base *base, dz_table *table, const dz_shape *shape, uint32_t extra)
{
    if (shape->texts)
        for (uint32_t at = 0; at < table->count; at++)
            dz_row_drop(base, shape, dz_table_entry(table, shape, extra, at));
    dz_free_memory(base, table->entries, (size_t)table->capacity * dz_table_stride(shape, extra) * 8);
    dz_free_memory(base, table->slots, table->slots ? ((size_t)table->mask + 1) * 8 : 0);
    *table = (dz_table){0};
}

#define DZ_TABLE_KEPT_MAX 4096u

/* Removes all entries. The memory of a small table is kept for the next ones. */
static inline void dz_table_clear(dz_base *base, dz_table *table, const dz_shape *shape, uint32_t extra)
{
    if (table->capacity > DZ_TABLE_KEPT_MAX) {
        dz_table_free(base, table, shape, extra);
        return;
    }
    if (table->count == 0) return;
    if (shape->texts)
        for (uint32_t at = 0; at < table->count; at++)
            dz_row_drop(base, shape, dz_table_entry(table, shape, extra, at));
    memset(table->slots, 0, ((size_t)table->mask + 1) * 8);
    table->count = 0;
}

/* ---- what is kept --------------------------------------------------------------------------------------------- */

/* One table of the state: entries, and the keys that were touched since the last `dz_kept_track`, also of entries that
   are gone. `stamp`: an entry that carries it is noted already. Nothing is noted before the first `dz_kept_track`. */
typedef struct {
    dz_table rows;
    dz_table touched;
    bool tracked;
    uint64_t stamp;
} dz_kept;

/* The payload of a row of a Z-set: its weight, and the stamp. */
enum { DZ_ZSET_WEIGHT, DZ_ZSET_STAMP, DZ_ZSET_EXTRA };

/* A row's weight before and after a change. */
typedef struct {
    int64_t before, after;
} dz_weights;

/* Notes that a key is touched. `stamp`: where its entry has the stamp; NULL if it has none, or the entry is not there. */
static inline void dz_kept_note(dz_base *base, dz_kept *kept, const dz_shape *shape, const uint64_t *key, uint64_t hash,
                                uint64_t *stamp)
{
    if (!kept->tracked || (stamp && *stamp == kept->stamp)) return;
    bool is_new;
    dz_table_put(base, &kept->touched, shape, 0, key, hash, &is_new);
    if (stamp) *stamp = kept->stamp;
}

/* Forgets what was touched; from now on, it is noted. */
static inline void dz_kept_track(dz_base *base, dz_kept *kept, const dz_shape *shape)
{
    dz_table_clear(base, &kept->touched, shape, 0);
    kept->tracked = true;
    kept->stamp++;
}

/* Adds to the weight of a row of a Z-set, without a note; a row of weight 0 is gone. */
static inline dz_weights dz_zset_add(dz_base *base, dz_table *rows, const dz_shape *shape, const uint64_t *row,
                                     uint64_t hash, int64_t weight)
{
    uint64_t *entry = dz_table_find(rows, shape, DZ_ZSET_EXTRA, row, hash);
    if (!entry) {
        if (weight == 0) return (dz_weights){0, 0};
        entry = dz_table_append(base, rows, shape, DZ_ZSET_EXTRA, row, hash);
        entry[shape->words + DZ_ZSET_WEIGHT] = (uint64_t)weight;
        return (dz_weights){0, weight};
    }
    int64_t before = (int64_t)entry[shape->words + DZ_ZSET_WEIGHT];
    int64_t after = dz_add_weights(base, before, weight);
    entry[shape->words + DZ_ZSET_WEIGHT] = (uint64_t)after;
    if (after == 0) dz_table_remove(base, rows, shape, DZ_ZSET_EXTRA, entry);
    return (dz_weights){before, after};
}

/* Adds to the weight of a row of a kept Z-set, and notes the row. The hash is `dz_row_hash` of the row; the change, of a
   consolidated delta, is not 0. */
static inline dz_weights dz_kept_add(dz_base *base, dz_kept *kept, const dz_shape *shape, const uint64_t *row,
                                     uint64_t hash, int64_t weight)
{
    uint64_t *entry = dz_table_find(&kept->rows, shape, DZ_ZSET_EXTRA, row, hash);
    int64_t before = entry ? (int64_t)entry[shape->words + DZ_ZSET_WEIGHT] : 0;
    if (weight == 0) return (dz_weights){before, before};
    int64_t after = dz_add_weights(base, before, weight);
    dz_kept_note(base, kept, shape, row, hash, entry ? &entry[shape->words + DZ_ZSET_STAMP] : NULL);
    if (after == 0) {
        dz_table_remove(base, &kept->rows, shape, DZ_ZSET_EXTRA, entry);
        return (dz_weights){before, 0};
    }
    if (!entry) {
        entry = dz_table_append(base, &kept->rows, shape, DZ_ZSET_EXTRA, row, hash);
        entry[shape->words + DZ_ZSET_STAMP] = kept->stamp;
    }
    entry[shape->words + DZ_ZSET_WEIGHT] = (uint64_t)after;
    return (dz_weights){before, after};
}

/* Adds to the weight of a row that is taken in from a save: no note. */
static inline void dz_kept_take(dz_base *base, dz_kept *kept, const dz_shape *shape, const uint64_t *row, int64_t weight)
{
    dz_zset_add(base, &kept->rows, shape, row, dz_row_hash(shape, row), weight);
}

/* The weight of a row of a kept Z-set; 0 if it is not there. */
static inline int64_t dz_kept_weight(const dz_kept *kept, const dz_shape *shape, const uint64_t *row)
{
    const uint64_t *entry = dz_table_find(&kept->rows, shape, DZ_ZSET_EXTRA, row, dz_row_hash(shape, row));
    return entry ? (int64_t)entry[shape->words + DZ_ZSET_WEIGHT] : 0;
}

/* Gives the memory back; `extra` as of the entries. */
static inline void dz_kept_free(dz_base *base, dz_kept *kept, const dz_shape *shape, uint32_t extra)
{
    dz_table_free(base, &kept->rows, shape, extra);
    dz_table_free(base, &kept->touched, shape, 0);
}

#endif
