/* From the tables of a node to what is saved of them, and back (`dist_zero/state.py`, `dist_zero/kept.py`).

What is to be saved is *frozen*: its rows are copied, their texts held, and it is put in order and given out later, in
slices of some milliseconds: first pieces are sorted, then they are merged. */

#ifndef DZ_SAVING_H
#define DZ_SAVING_H

#include "ends.h"

/* A change with more rows comes in pieces; `dist_zero/kept.py`. */
#define DZ_PIECE_ROWS 20000u

/* One table of the state. `entry`: its row type; `key`: the columns by which an entry is told, of a Z-set all, so that it
   is the same shape. `key_of`: writes the key of an entry, not of a Z-set; `hash`: the one that owns an entry, where
   hashes do (false: it fails). Without functions, the table is kept elsewhere. */
typedef struct {
    const dz_shape *entry, *key;
    void (*entries)(dz_base *, dz_delta *out);
    void (*touched)(dz_base *, dz_delta *puts, dz_delta *gone);
    bool (*get)(dz_base *, const uint64_t *key, dz_delta *out);
    void (*track)(dz_base *);
    void (*take)(dz_base *, const uint64_t *entry, int64_t weight);
    void (*key_of)(const uint64_t *entry, uint64_t *key);
    bool (*hash)(dz_base *, const uint64_t *entry, uint64_t *hash);
} dz_state_table;

/* Says the entry of the key that the call has, if there is one. */
static void dz_table_get(dz_base *base, const dz_state_table *table, dz_reader *reader, dz_output *out, dz_order *order)
{
    dz_batch batch = dz_read_batch(base, reader, table->key->columns);
    uint64_t key[table->key->words + 1];
    dz_delta *found = dz_lend(base, table->entry);
    dz_batch_row(base, table->key, &batch, 0, key);
    table->get(base, key, found);
    dz_write_delta(base, out, order, found, table->entry);
    dz_return(base, found, table->entry);
}

/* Adds the entries that the call has to a table. */
static void dz_table_take(dz_base *base, const dz_state_table *table, dz_reader *reader)
{
    dz_batch batch = dz_read_batch(base, reader, table->entry->columns);
    uint64_t entry[table->entry->words + 1];
    for (uint32_t at = 0; at < batch.count; at++) {
        dz_batch_row(base, table->entry, &batch, at, entry);
        table->take(base, entry, dz_batch_weight(&batch, at));
    }
}

/* ---- in order ------------------------------------------------------------------------------------------------- */

/* Rows that come out in order. The items of `rows` are sorted piece by piece, and then the pieces are merged: `heap` has
   those pieces of which there are rows left, the one with the smallest first; `places`: by piece, the next row. */
typedef struct {
    dz_delta rows;
    dz_sorted *sorted, *room;
    uint32_t sorted_count, piece_count, heap_count, given;
    uint32_t *heap, *places;
    bool held; /* whether the texts of the rows are; not if something failed while they were collected */
} dz_merging;

/* Room for the order of what is there. */
static void dz_merging_begin(dz_base *base, dz_merging *merging, const dz_shape *shape)
{
    uint32_t count = merging->rows.count;
    merging->piece_count = (count + DZ_PIECE_ROWS - 1) / DZ_PIECE_ROWS;
    merging->sorted = dz_alloc(base, count * sizeof *merging->sorted);
    for (uint32_t at = 0; at < count; at++) merging->sorted[at].row = dz_delta_row(&merging->rows, shape, at);
    merging->room = dz_alloc(base, (size_t)DZ_PIECE_ROWS * sizeof *merging->room);
    merging->heap = dz_alloc(base, merging->piece_count * sizeof *merging->heap);
    merging->places = dz_alloc(base, merging->piece_count * sizeof *merging->places);
}

/* Frees it; its texts are given back. */
static void dz_merging_free(dz_base *base, dz_merging *merging, const dz_shape *shape)
{
    uint32_t count = merging->rows.count;
    dz_free_memory(base, merging->sorted, count * sizeof *merging->sorted);
    dz_free_memory(base, merging->room, (size_t)DZ_PIECE_ROWS * sizeof *merging->room);
    dz_free_memory(base, merging->heap, merging->piece_count * sizeof *merging->heap);
    dz_free_memory(base, merging->places, merging->piece_count * sizeof *merging->places);
    if (merging->held) dz_delta_drop(base, &merging->rows, shape);
    dz_delta_free(base, &merging->rows, shape);
    *merging = (dz_merging){0};
}

/* How many rows a piece has. */
static inline uint32_t dz_piece_end(const dz_merging *merging, uint32_t piece)
{
    uint64_t end = ((uint64_t)piece + 1) * DZ_PIECE_ROWS;
    return end < merging->rows.count ? (uint32_t)end : merging->rows.count;
}

/* Whether the next row of a piece comes before that of another. */
static inline bool dz_piece_before(const dz_merging *merging, const dz_shape *shape, uint32_t left, uint32_t right)
{
    return dz_compare_rows(shape, merging->sorted[merging->places[left]].row,
                           merging->sorted[merging->places[right]].row) < 0;
}

/* Lets the piece at the top of the heap, or at `at`, sink to where it belongs. */
static void dz_heap_sink(dz_merging *merging, const dz_shape *shape, uint32_t at)
{
    for (;;) {
        uint32_t least = at, left = 2 * at + 1, right = left + 1;
        if (left < merging->heap_count && dz_piece_before(merging, shape, merging->heap[left], merging->heap[least]))
            least = left;
        if (right < merging->heap_count && dz_piece_before(merging, shape, merging->heap[right], merging->heap[least]))
            least = right;
        if (least == at) return;
        uint32_t swapped = merging->heap[at];
        merging->heap[at] = merging->heap[least];
        merging->heap[least] = swapped;
        at = least;
    }
}

/* Sorts another piece; true when all are, and the merging can begin. */
static bool dz_merging_sort(dz_base *base, dz_merging *merging, const dz_shape *shape)
{
    if (!merging->rows.count) return true;
    if (!merging->sorted) dz_merging_begin(base, merging, shape);
    if (merging->sorted_count < merging->rows.count) {
        uint32_t end = dz_piece_end(merging, merging->sorted_count / DZ_PIECE_ROWS);
        dz_sort(shape, merging->sorted + merging->sorted_count, merging->room, end - merging->sorted_count, NULL);
        merging->sorted_count = end;
        if (end < merging->rows.count) return false;
        merging->heap_count = merging->piece_count;
        for (uint32_t piece = 0; piece < merging->piece_count; piece++) {
            merging->heap[piece] = piece;
            merging->places[piece] = piece * DZ_PIECE_ROWS;
        }
        for (uint32_t at = merging->piece_count; at-- > 0;) dz_heap_sink(merging, shape, at);
    }
    return true;
}

/* The next rows in order, at most a piece of them, in `room`; how many. */
static uint32_t dz_merging_next(dz_merging *merging, const dz_shape *shape)
{
    uint32_t count = 0;
    while (merging->heap_count && count < DZ_PIECE_ROWS) {
        uint32_t piece = merging->heap[0];
        merging->room[count++] = merging->sorted[merging->places[piece]++];
        if (merging->places[piece] == dz_piece_end(merging, piece)) merging->heap[0] = merging->heap[--merging->heap_count];
        dz_heap_sink(merging, shape, 0);
    }
    merging->given += count;
    return count;
}

/* ---- frozen --------------------------------------------------------------------------------------------------- */

/* What is to be said of a table. */
typedef struct dz_frozen {
    int64_t number;
    const dz_state_table *table;
    dz_merging puts, gone;
    struct dz_frozen *next;
} dz_frozen;

/* All that is frozen. */
typedef struct {
    dz_frozen *first;
    int64_t number;
} dz_all_frozen;

/* Freezes what is in a table; its number. */
static int64_t dz_frozen_make(dz_base *base, dz_all_frozen *all, const dz_state_table *table, bool touched)
{
    dz_frozen *frozen = dz_alloc_zeroed(base, sizeof *frozen);
    frozen->number = ++all->number;
    frozen->table = table;
    frozen->next = all->first;
    all->first = frozen;
    if (touched)
        table->touched(base, &frozen->puts.rows, &frozen->gone.rows);
    else
        table->entries(base, &frozen->puts.rows);
    dz_delta_hold(base, &frozen->puts.rows, table->entry);
    dz_delta_hold(base, &frozen->gone.rows, table->key);
    frozen->puts.held = frozen->gone.held = true;
    return frozen->number;
}

/* What has this number. */
static dz_frozen *dz_frozen_find(dz_base *base, dz_all_frozen *all, int64_t number)
{
    dz_frozen *frozen = all->first;
    while (frozen && frozen->number != number) frozen = frozen->next;
    if (!frozen) dz_raise(base, DZ_BUG, "nothing is frozen under this number");
    return frozen;
}

/* See `dz_next`. */
static void dz_frozen_next(dz_base *base, dz_all_frozen *all, int64_t number, dz_output *out)
{
    dz_frozen *frozen = dz_frozen_find(base, all, number);
    const dz_state_table *table = frozen->table;
    if (!dz_merging_sort(base, &frozen->puts, table->entry) || !dz_merging_sort(base, &frozen->gone, table->key)) {
        dz_write(base, out, -1);
        return;
    }
    uint32_t puts = dz_merging_next(&frozen->puts, table->entry), gone = dz_merging_next(&frozen->gone, table->key);
    if (!puts && !gone) return;
    dz_write(base, out, (int64_t)frozen->puts.rows.count - frozen->puts.given + frozen->gone.rows.count - frozen->gone.given);
    dz_write_rows(base, out, table->entry, frozen->puts.room, puts, true);
    dz_write_rows(base, out, table->key, frozen->gone.room, gone, false);
}

/* Frees what has this number. */
static void dz_frozen_free(dz_base *base, dz_all_frozen *all, int64_t number)
{
    dz_frozen **place = &all->first;
    while (*place && (*place)->number != number) place = &(*place)->next;
    dz_frozen *frozen = *place;
    if (!frozen) return;
    *place = frozen->next;
    dz_merging_free(base, &frozen->puts, frozen->table->entry);
    dz_merging_free(base, &frozen->gone, frozen->table->key);
    dz_free_memory(base, frozen, sizeof *frozen);
}

/* Frees everything that is frozen. */
static void dz_all_frozen_free(dz_base *base, dz_all_frozen *all)
{
    while (all->first) dz_frozen_free(base, all, all->first->number);
}

#endif
