/* Taking in what was saved (`reference/loading.py`): saves are *folded*, one behind the other, into what they come to, and
that goes into a table of the state, in slices of some milliseconds.

A fold has an entry for each key that the saves speak of: the words of the key and, of a table that is no Z-set, those of
the whole entry; then the weight, 0 for one that is gone, and marks. Texts are held. What belongs to no hash is kept by
predecessor beyond that, since later only the differences to it are taken in. */

#ifndef DZ_LOADING_H
#define DZ_LOADING_H

#include "saving.h"

/* The bits of an entry's marks; above them, the number of the change that spoke of it last. `MISSING`: it is in the table
   of the state, and a save of everything does not have it; `OTHERS`: it is not of the node that is followed. */
enum { DZ_FOLD_MISSING = 1, DZ_FOLD_OTHERS = 2, DZ_FOLD_CHANGE = 4 };

/* What is wrong with a change that is folded. */
enum { DZ_FOLD_RIGHT, DZ_FOLD_DELETES, DZ_FOLD_WEIGHTS, DZ_FOLD_TWICE };

/* What saves come to, of one table. `gone` and `come`: what is to be taken back and put in; `at`, `phase`: how far that
   is. */
typedef struct dz_fold {
    int64_t number;
    const dz_state_table *table;
    dz_table entries;
    uint64_t changes;
    dz_delta gone, come;
    uint32_t at, phase;
    struct dz_fold *next;
} dz_fold;

/* All folds of a node. */
typedef struct {
    dz_fold *first;
    int64_t number;
} dz_folds;

/* How many words of an entry's payload are the entry itself: none in a Z-set, where the key is all of it. */
static inline uint32_t dz_fold_entry_words(const dz_state_table *table)
{
    return table->key == table->entry ? 0 : table->entry->words;
}

static inline uint32_t dz_fold_extra(const dz_state_table *table)
{
    return dz_fold_entry_words(table) + 2;
}

/* The words of the whole entry in an entry of a fold. */
static inline uint64_t *dz_fold_entry(const dz_state_table *table, uint64_t *words)
{
    return dz_fold_entry_words(table) ? words + table->key->words : words;
}

static inline uint64_t *dz_fold_weight(const dz_state_table *table, uint64_t *words)
{
    return words + table->key->words + dz_fold_entry_words(table);
}

static inline uint64_t *dz_fold_marks(const dz_state_table *table, uint64_t *words)
{
    return dz_fold_weight(table, words) + 1;
}

/* Entry number `at`. */
static inline uint64_t *dz_fold_at(const dz_fold *fold, uint32_t at)
{
    return dz_table_entry(&fold->entries, fold->table->key, dz_fold_extra(fold->table), at);
}

/* A fold of nothing; its number. */
static int64_t dz_fold_make(dz_base *base, dz_folds *folds, const dz_state_table *table)
{
    dz_fold *fold = dz_alloc_zeroed(base, sizeof *fold);
    *fold = (dz_fold){.number = ++folds->number, .table = table, .next = folds->first};
    folds->first = fold;
    return fold->number;
}

/* The fold of this number. */
static dz_fold *dz_fold_find(dz_base *base, dz_folds *folds, int64_t number)
{
    dz_fold *fold = folds->first;
    while (fold && fold->number != number) fold = fold->next;
    if (!fold) dz_raise(base, DZ_BUG, "nothing is folded under this number");
    return fold;
}

/* Says of a key what there is of it now; false: this change has spoken of it already. */
static bool dz_fold_put(dz_base *base, dz_fold *fold, const uint64_t *key, const uint64_t *entry, int64_t weight,
                        uint64_t marks)
{
    const dz_state_table *table = fold->table;
    bool is_new;
    uint64_t *words = dz_table_put(base, &fold->entries, table->key, dz_fold_extra(table), key,
                                   dz_row_hash(table->key, key), &is_new);
    if (*dz_fold_marks(table, words) / DZ_FOLD_CHANGE == fold->changes) return false;
    if (dz_fold_entry_words(table)) {
        if (weight) dz_row_hold(base, table->entry, entry);
        dz_row_drop(base, table->entry, dz_fold_entry(table, words));
        for (uint32_t word = 0; word < table->entry->words; word++)
            dz_fold_entry(table, words)[word] = weight ? entry[word] : 0;
    }
    *dz_fold_weight(table, words) = (uint64_t)weight;
    *dz_fold_marks(table, words) = fold->changes * DZ_FOLD_CHANGE | marks;
    return true;
}

/* Folds a change, the next of the call: entries that are there, and keys of those that are gone. What is wrong with it. */
static int64_t dz_fold_change(dz_base *base, dz_fold *fold, dz_reader *reader)
{
    const dz_state_table *table = fold->table;
    bool is_zset = table->key == table->entry;
    uint64_t entry[table->entry->words + 1], key[table->key->words + 1];
    dz_batch puts = dz_read_batch(base, reader, table->entry->columns);
    dz_batch gone = dz_read_batch(base, reader, table->key->columns);
    fold->changes++;
    for (uint32_t at = 0; at < gone.count; at++) {
        if (dz_batch_weight(&gone, at) != 1) return DZ_FOLD_DELETES;
        dz_batch_row(base, table->key, &gone, at, key);
        if (!dz_fold_put(base, fold, key, NULL, 0, 0)) return DZ_FOLD_TWICE;
    }
    for (uint32_t at = 0; at < puts.count; at++) {
        int64_t weight = dz_batch_weight(&puts, at);
        if (weight == 0 || (!is_zset && weight != 1)) return DZ_FOLD_WEIGHTS;
        dz_batch_row(base, table->entry, &puts, at, entry);
        if (is_zset) {
            if (!dz_fold_put(base, fold, entry, entry, weight, 0)) return DZ_FOLD_TWICE;
            continue;
        }
        table->key_of(entry, key);
        if (!dz_fold_put(base, fold, key, entry, weight, 0)) return DZ_FOLD_TWICE;
    }
    return DZ_FOLD_RIGHT;
}

/* Adds to the fold of everything that a node has those entries that are here and are not in it, as gone. */
static void dz_fold_miss(dz_base *base, dz_fold *fold)
{
    const dz_state_table *table = fold->table;
    dz_delta *here = dz_lend(base, table->entry);
    uint64_t key[table->key->words + 1];
    table->entries(base, here);
    fold->changes++;
    for (uint32_t at = 0; at < here->count; at++) {
        const uint64_t *entry = dz_delta_row(here, table->entry, at);
        if (table->key == table->entry)
            dz_row_copy(table->key, key, entry);
        else
            table->key_of(entry, key);
        if (dz_table_find(&fold->entries, table->key, dz_fold_extra(table), key, dz_row_hash(table->key, key))) continue;
        dz_fold_put(base, fold, key, NULL, 0, DZ_FOLD_MISSING);
    }
    dz_return(base, here, table->entry);
}

/* The entry that is here for a key of the fold, with its weight: at the end of `out`, if there is one. */
static bool dz_fold_here(dz_base *base, const dz_fold *fold, const dz_fold *part, const uint64_t *words, dz_delta *out)
{
    const dz_state_table *table = fold->table;
    if (!part) return table->get(base, words, out);
    uint64_t *found = dz_table_find(&part->entries, table->key, dz_fold_extra(table), words,
                                    dz_row_hash(table->key, words));
    if (!found || !*dz_fold_weight(table, found)) return false;
    dz_delta_add(base, out, table->entry, dz_fold_entry(table, found), (int64_t)*dz_fold_weight(table, found));
    return true;
}

/* The hash that owns an entry. */
static uint64_t dz_fold_hash(dz_base *base, const dz_state_table *table, const uint64_t *entry)
{
    uint64_t hash;
    if (!table->hash(base, entry, &hash)) dz_raise(base, DZ_MALFORMED, "saved state has an entry that belongs nowhere");
    return hash;
}

/* Says the hashes of all entries: of one that is missing, that of the entry that is here; of one that is gone, 0. */
static void dz_fold_hashes(dz_base *base, dz_fold *fold, dz_output *out)
{
    const dz_state_table *table = fold->table;
    dz_delta *here = dz_lend(base, table->entry);
    for (uint32_t at = 0; at < fold->entries.count; at++) {
        uint64_t *words = dz_fold_at(fold, at), hash = 0;
        if (*dz_fold_weight(table, words))
            hash = dz_fold_hash(base, table, dz_fold_entry(table, words));
        else if (*dz_fold_marks(table, words) & DZ_FOLD_MISSING && dz_fold_here(base, fold, NULL, words, here))
            hash = dz_fold_hash(base, table, dz_delta_row(here, table->entry, 0));
        dz_delta_clear(here);
        dz_write(base, out, (int64_t)hash);
    }
    dz_return(base, here, table->entry);
}

/* Which of the entries are wanted, by byte: of the `missing`, those that are not are left in peace; of the others, they
   are as if they were gone. */
static void dz_fold_keep(dz_fold *fold, const char *wanted, bool missing)
{
    const dz_state_table *table = fold->table;
    for (uint32_t at = 0; at < fold->entries.count; at++) {
        uint64_t *words = dz_fold_at(fold, at);
        bool is_missing = (*dz_fold_marks(table, words) & DZ_FOLD_MISSING) != 0;
        if (wanted[at] || missing != is_missing) continue;
        if (is_missing)
            *dz_fold_marks(table, words) |= DZ_FOLD_OTHERS;
        else
            *dz_fold_weight(table, words) = 0;
    }
}

/* The same, where wanted are hashes from the first to the last one; `missing`: of the missing, or of the others. */
static void dz_fold_keep_interval(dz_base *base, dz_fold *fold, uint64_t first, uint64_t last, bool missing)
{
    const dz_state_table *table = fold->table;
    dz_delta *here = dz_lend(base, table->entry);
    for (uint32_t at = 0; at < fold->entries.count; at++) {
        uint64_t *words = dz_fold_at(fold, at);
        const uint64_t *entry = NULL;
        bool is_missing = (*dz_fold_marks(table, words) & DZ_FOLD_MISSING) != 0;
        dz_delta_clear(here);
        if (missing != is_missing) continue;
        if (is_missing && dz_fold_here(base, fold, NULL, words, here)) entry = dz_delta_row(here, table->entry, 0);
        if (!is_missing && *dz_fold_weight(table, words)) entry = dz_fold_entry(table, words);
        if (!entry) continue;
        uint64_t hash = dz_fold_hash(base, table, entry);
        if (first <= hash && hash <= last) continue;
        if (is_missing)
            *dz_fold_marks(table, words) |= DZ_FOLD_OTHERS;
        else
            *dz_fold_weight(table, words) = 0;
    }
    dz_return(base, here, table->entry);
}

/* Adds at most so many entries to the table of the state, which has none of them yet; whether there are more. */
static bool dz_fold_take(dz_base *base, dz_fold *fold, uint32_t count)
{
    const dz_state_table *table = fold->table;
    for (; count && fold->at < fold->entries.count; count--, fold->at++) {
        uint64_t *words = dz_fold_at(fold, fold->at);
        int64_t weight = (int64_t)*dz_fold_weight(table, words);
        if (weight) table->take(base, dz_fold_entry(table, words), weight);
    }
    bool more = fold->at < fold->entries.count;
    if (!more) fold->at = 0;
    return more;
}

/* What an entry of the fold takes back and puts in, where another may be here. */
static void dz_fold_compare(dz_base *base, dz_fold *fold, const dz_fold *part, uint64_t *words, dz_delta *here)
{
    const dz_state_table *table = fold->table;
    if (*dz_fold_marks(table, words) & DZ_FOLD_OTHERS) return;
    uint64_t *entry = dz_fold_entry(table, words);
    int64_t weight = (int64_t)*dz_fold_weight(table, words);
    dz_delta_clear(here);
    int64_t before = dz_fold_here(base, fold, part, words, here) ? dz_delta_weight(here, table->entry, 0) : 0;
    if (table->key == table->entry) {
        int64_t change = dz_add_weights(base, weight, dz_multiply_weights(base, before, -1));
        if (change) dz_delta_add(base, change < 0 ? &fold->gone : &fold->come, table->entry, entry, change);
        return;
    }
    const uint64_t *old = before ? dz_delta_row(here, table->entry, 0) : NULL;
    if (before == weight && (!before || dz_row_equal(table->entry, old, entry))) return;
    if (before) dz_delta_add(base, &fold->gone, table->entry, old, -before);
    if (weight) dz_delta_add(base, &fold->come, table->entry, entry, weight);
}

/* Adds at most so many of a delta to the table of the state; whether there are more. */
static bool dz_fold_take_delta(dz_base *base, dz_fold *fold, const dz_delta *delta, uint32_t count)
{
    const dz_state_table *table = fold->table;
    for (; count && fold->at < delta->count; count--, fold->at++)
        table->take(base, dz_delta_row(delta, table->entry, fold->at), dz_delta_weight(delta, table->entry, fold->at));
    return fold->at < delta->count;
}

/* The end of a phase; false. */
static bool dz_fold_next_phase(dz_fold *fold)
{
    fold->phase++;
    fold->at = 0;
    return true;
}

/* Puts at most so many entries in the place of those that are here; what goes, goes first. `part`: what the predecessor
   had before, of what belongs to no hash. Whether there are more. */
static bool dz_fold_replace(dz_base *base, dz_fold *fold, dz_fold *part, uint32_t count)
{
    const dz_state_table *table = fold->table;
    if (fold->phase == 0) {
        uint32_t gone = fold->gone.count, come = fold->come.count;
        dz_delta *here = dz_lend(base, table->entry);
        for (; count && fold->at < fold->entries.count; count--, fold->at++)
            dz_fold_compare(base, fold, part, dz_fold_at(fold, fold->at), here);
        dz_return(base, here, table->entry);
        for (; gone < fold->gone.count; gone++) dz_row_hold(base, table->entry, dz_delta_row(&fold->gone, table->entry, gone));
        for (; come < fold->come.count; come++) dz_row_hold(base, table->entry, dz_delta_row(&fold->come, table->entry, come));
        return fold->at < fold->entries.count || dz_fold_next_phase(fold);
    }
    if (fold->phase == 1) return dz_fold_take_delta(base, fold, &fold->gone, count) || dz_fold_next_phase(fold);
    if (dz_fold_take_delta(base, fold, &fold->come, count)) return true;
    for (uint32_t at = 0; part && at < fold->entries.count; at++) {
        uint64_t *words = dz_fold_at(fold, at);
        part->changes++;
        dz_fold_put(base, part, words, dz_fold_entry(table, words), (int64_t)*dz_fold_weight(table, words), 0);
    }
    return false;
}

/* Adds to a fold what it does not have of another one, as gone: what the predecessor had before, and has no more. */
static void dz_fold_miss_part(dz_base *base, dz_fold *fold, dz_fold *part)
{
    const dz_state_table *table = fold->table;
    fold->changes++;
    for (uint32_t at = 0; at < part->entries.count; at++) {
        uint64_t *words = dz_fold_at(part, at);
        if (!*dz_fold_weight(table, words)) continue;
        if (dz_table_find(&fold->entries, table->key, dz_fold_extra(table), words, dz_row_hash(table->key, words))) continue;
        dz_fold_put(base, fold, words, NULL, 0, 0);
    }
}

/* Frees a fold. */
static void dz_fold_free(dz_base *base, dz_folds *folds, int64_t number)
{
    dz_fold **place = &folds->first;
    while (*place && (*place)->number != number) place = &(*place)->next;
    dz_fold *fold = *place;
    if (!fold) return;
    *place = fold->next;
    const dz_state_table *table = fold->table;
    for (uint32_t at = 0; dz_fold_entry_words(table) && at < fold->entries.count; at++)
        dz_row_drop(base, table->entry, dz_fold_entry(table, dz_fold_at(fold, at)));
    dz_table_free(base, &fold->entries, table->key, dz_fold_extra(table));
    dz_delta_drop(base, &fold->gone, table->entry);
    dz_delta_drop(base, &fold->come, table->entry);
    dz_delta_free(base, &fold->gone, table->entry);
    dz_delta_free(base, &fold->come, table->entry);
    dz_free_memory(base, fold, sizeof *fold);
}

/* Frees all folds. */
static void dz_folds_free(dz_base *base, dz_folds *folds)
{
    while (folds->first) dz_fold_free(base, folds, folds->first->number);
}

#endif
