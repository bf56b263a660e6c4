/* The functions that a library exports, the same for all plans. They stand behind the rendered part, which defines
`struct node` (it begins with a `dz_base`), the functions that are declared here, and `tables`. A call that fails returns
-1, and `dz_error` says why; one that says something returns how many bytes of it there are at `dz_said`. */

#ifndef DZ_NODE_H
#define DZ_NODE_H

#include "loading.h"

/* What the renderer writes. */
static void node_begin(dz_base *base);
static void node_step(dz_base *base, dz_reader *reader, int64_t epoch, int64_t stage);
static void node_finish(dz_base *base, int64_t epoch);
static void node_rows(dz_base *base, int64_t view);
static bool node_settle(dz_base *base, uint32_t count);
static void node_free(dz_base *base);

/* A node of nothing; NULL if there is no memory for it. */
DZ_EXPORT void *dz_new(void)
{
    dz_base *base = calloc(1, sizeof(node));
    if (!base) return NULL;
    if (dz_enter(base)) return base;
    node_begin(base);
    return base;
}

/* Frees a node; how many bytes it had and nobody knew of. */
DZ_EXPORT int64_t dz_delete(void *pointer)
{
    dz_base *base = pointer;
    node *n = pointer;
    base->error = 0;
    node_free(base);
    dz_order_free(base, &n->order);
    dz_free_memory(base, n->out.bytes, n->out.capacity);
    dz_base_clear(base);
    int64_t lost = (int64_t)base->bytes;
    free(base);
    return lost;
}

/* What went wrong: the number, and the message in `text`. */
DZ_EXPORT int64_t dz_error(void *pointer, char *text)
{
    dz_base *base = pointer;
    memcpy(text, base->message, sizeof base->message);
    return base->error;
}

/* Where the bytes are that the last call has said. */
DZ_EXPORT const void *dz_said(void *pointer)
{
    return ((node *)pointer)->out.bytes;
}

/* How much memory the node has. */
DZ_EXPORT int64_t dz_bytes(void *pointer)
{
    return (int64_t)((dz_base *)pointer)->bytes;
}

/* For tests: the so many-th allocation from now on fails. */
DZ_EXPORT void dz_fail_after(void *pointer, int64_t allocations)
{
    ((dz_base *)pointer)->fail_after = allocations;
}

#define DZ_SAID_MAX ((uint64_t)1 << 24)

/* The beginning of a call that says something: the memory of the last one is used again, unless it is much. */
static void node_say(node *n)
{
    n->out.length = 0;
    if (n->out.capacity <= DZ_SAID_MAX) return;
    dz_free_memory(&n->base, n->out.bytes, n->out.capacity);
    n->out = (dz_output){0};
}

/* The end of a call that went well. */
static int64_t node_end(dz_base *base)
{
    dz_sweep(base);
    return (int64_t)((node *)base)->out.length;
}

/* One stage of one epoch. */
DZ_EXPORT int64_t dz_step(void *pointer, const int64_t *head, const char *const *blobs)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    dz_reader reader = {head, blobs};
    node_say(pointer);
    int64_t epoch = dz_read(&reader), stage = dz_read(&reader);
    node_step(base, &reader, epoch, stage);
    return node_end(base);
}

/* Makes an epoch visible; says what changed. */
DZ_EXPORT int64_t dz_finish(void *pointer, int64_t epoch)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    node_say(pointer);
    node_finish(base, epoch);
    return node_end(base);
}

/* Says all rows of a view. */
DZ_EXPORT int64_t dz_rows(void *pointer, int64_t view)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    node_say(pointer);
    node_rows(base, view);
    dz_order_free(base, &((node *)pointer)->order); /* a view may be large */
    return node_end(base);
}

/* Says the entry of a key in a table, if there is one: a batch of one row or none. */
DZ_EXPORT int64_t dz_get(void *pointer, int64_t number, const int64_t *head, const char *const *blobs)
{
    dz_base *base = pointer;
    node *n = pointer;
    const dz_state_table *table = &state_tables[number];
    if (dz_enter(base)) return -1;
    dz_reader reader = {head, blobs};
    node_say(n);
    dz_table_get(base, table, &reader, &n->out, &n->order);
    return node_end(base);
}

/* What there is in a table (`touched`: what was touched since the last `dz_track`), to be given out by `dz_next`; a
   number by which it is called. */
DZ_EXPORT int64_t dz_freeze(void *pointer, int64_t number, int64_t touched)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    int64_t frozen = dz_frozen_make(base, &((node *)pointer)->frozen, &state_tables[number], touched != 0);
    dz_sweep(base);
    return frozen;
}

/* Works on what is frozen for some milliseconds. It says nothing as long as there is something to be done before, and
   nothing when it is at its end; the first word of what it says is how many rows are still to come, -1 in the first case.
   Then come the batch of entries and that of keys that are gone. */
DZ_EXPORT int64_t dz_next(void *pointer, int64_t frozen)
{
    dz_base *base = pointer;
    node *n = pointer;
    if (dz_enter(base)) return -1;
    node_say(n);
    dz_frozen_next(base, &n->frozen, frozen, &n->out);
    return node_end(base);
}

/* Forgets what is frozen, gone through or not. */
DZ_EXPORT int64_t dz_thaw(void *pointer, int64_t frozen)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    dz_frozen_free(base, &((node *)pointer)->frozen, frozen);
    dz_sweep(base);
    return 0;
}

/* Forgets what was touched in all tables; from now on it is noted. */
DZ_EXPORT int64_t dz_track(void *pointer)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    for (uint32_t table = 0; table < state_table_count; table++)
        if (state_tables[table].track) state_tables[table].track(base);
    dz_sweep(base);
    return 0;
}

/* Adds entries to a table. */
DZ_EXPORT int64_t dz_take(void *pointer, int64_t number, const int64_t *head, const char *const *blobs)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    dz_reader reader = {head, blobs};
    dz_table_take(base, &state_tables[number], &reader);
    dz_sweep(base);
    return 0;
}

/* Computes the rest of the state from what the tables have taken in, so many entries at a time; 1: there are more. */
DZ_EXPORT int64_t dz_settle(void *pointer, int64_t count)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    bool more = node_settle(base, (uint32_t)count);
    dz_sweep(base);
    return more;
}

/* ---- loading -------------------------------------------------------------------------------------------------- */

/* A fold of nothing, for saves of a table; its number. */
DZ_EXPORT int64_t dz_load_begin(void *pointer, int64_t table)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    return dz_fold_make(base, &((node *)pointer)->folds, &state_tables[table]);
}

/* Folds a change; what is wrong with it, 0 if nothing is. */
DZ_EXPORT int64_t dz_load_change(void *pointer, int64_t number, const int64_t *head, const char *const *blobs)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    dz_reader reader = {head, blobs};
    int64_t wrong = dz_fold_change(base, dz_fold_find(base, &((node *)pointer)->folds, number), &reader);
    dz_sweep(base);
    return wrong;
}

/* Adds to a fold of everything what is here and not in it; `part`: what the predecessor had before, 0: the table. */
DZ_EXPORT int64_t dz_load_missing(void *pointer, int64_t number, int64_t part)
{
    dz_base *base = pointer;
    dz_folds *folds = &((node *)pointer)->folds;
    if (dz_enter(base)) return -1;
    if (part)
        dz_fold_miss_part(base, dz_fold_find(base, folds, number), dz_fold_find(base, folds, part));
    else
        dz_fold_miss(base, dz_fold_find(base, folds, number));
    dz_sweep(base);
    return 0;
}

/* Says the hashes of the entries of a fold. */
DZ_EXPORT int64_t dz_load_hashes(void *pointer, int64_t number)
{
    dz_base *base = pointer;
    node *n = pointer;
    if (dz_enter(base)) return -1;
    node_say(n);
    dz_fold_hashes(base, dz_fold_find(base, &n->folds, number), &n->out);
    return node_end(base);
}

/* Which of the entries of a fold are wanted, by byte; `missing`: of those that are missing, or of the others. */
DZ_EXPORT int64_t dz_load_keep(void *pointer, int64_t number, const char *wanted, int64_t missing)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    dz_fold_keep(dz_fold_find(base, &((node *)pointer)->folds, number), wanted, missing != 0);
    return 0;
}

/* The same by an interval of hashes, which are words without a sign. */
DZ_EXPORT int64_t dz_load_interval(void *pointer, int64_t number, int64_t first, int64_t last, int64_t missing)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    dz_fold *fold = dz_fold_find(base, &((node *)pointer)->folds, number);
    dz_fold_keep_interval(base, fold, (uint64_t)first, (uint64_t)last, missing != 0);
    dz_sweep(base);
    return 0;
}

/* Adds so many entries of a fold to its table, which has none of them yet; 1: there are more. */
DZ_EXPORT int64_t dz_load_take(void *pointer, int64_t number, int64_t count)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    bool more = dz_fold_take(base, dz_fold_find(base, &((node *)pointer)->folds, number), (uint32_t)count);
    dz_sweep(base);
    return more;
}

/* Puts so many entries of a fold in the place of those that are here; 1: there are more. */
DZ_EXPORT int64_t dz_load_replace(void *pointer, int64_t number, int64_t part, int64_t count)
{
    dz_base *base = pointer;
    dz_folds *folds = &((node *)pointer)->folds;
    if (dz_enter(base)) return -1;
    dz_fold *before = part ? dz_fold_find(base, folds, part) : NULL;
    bool more = dz_fold_replace(base, dz_fold_find(base, folds, number), before, (uint32_t)count);
    dz_sweep(base);
    return more;
}

/* Forgets a fold. */
DZ_EXPORT int64_t dz_load_end(void *pointer, int64_t number)
{
    dz_base *base = pointer;
    if (dz_enter(base)) return -1;
    dz_fold_free(base, &((node *)pointer)->folds, number);
    dz_sweep(base);
    return 0;
}

#endif
