/* Operators over whole rows: distinct, difference, the gate of a changing program, and the exchange; what windows need. */

#ifndef DZ_SETS_H
#define DZ_SETS_H

#include "ends.h"

/* ---- windows -------------------------------------------------------------------------------------------------- */

/* The columns that a window adds to a row. */
typedef struct {
    int64_t start, end;
} dz_bounds;

/* The quotient, rounded down; the divisor is above 0. */
static inline __int128 dz_wide_floor_div(__int128 value, int64_t by)
{
    return value / by - (value % by < 0);
}

/* ---- distinct and difference ---------------------------------------------------------------------------------- */

/* Every row that is there, once: emits those that came and those that went. */
static inline void dz_distinct_run(dz_base *base, dz_kept *kept, const dz_shape *shape, dz_delta *input,
                                   void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    dz_consolidate(base, input, shape);
    for (uint32_t at = 0; at < input->count; at++) {
        const uint64_t *row = dz_delta_row(input, shape, at);
        dz_weights weights = dz_kept_add(base, kept, shape, row, dz_row_hash(shape, row), dz_delta_weight(input, shape, at));
        int64_t change = (weights.after > 0) - (weights.before > 0);
        if (change) emit(base, row, change);
    }
    dz_delta_clear(input);
}

/* Both sides of a difference. The right's rows may have other nulls than the left's: `to_right` makes a right row of a
   left one and the other way round, and says false if there is none. */
typedef struct {
    dz_kept left, right;
} dz_difference;

typedef struct {
    const dz_shape *left, *right;
    bool (*to_left)(const uint64_t *row, uint64_t *left);
    bool (*to_right)(const uint64_t *row, uint64_t *right);
} dz_difference_type;

/* Every row that the left has and the right has not, once. First the right's changes against the left's old rows, then
   the left's against the right's new ones; what both changes make of a row adds up. */
static inline void dz_difference_run(dz_base *base, dz_difference *state, const dz_difference_type *type, dz_delta *left,
                                     dz_delta *right, void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    uint64_t other[type->left->words + type->right->words + 1];
    dz_consolidate(base, left, type->left);
    dz_consolidate(base, right, type->right);
    for (uint32_t at = 0; at < right->count; at++) {
        const uint64_t *row = dz_delta_row(right, type->right, at);
        dz_weights weights = dz_kept_add(base, &state->right, type->right, row, dz_row_hash(type->right, row),
                                         dz_delta_weight(right, type->right, at));
        int64_t change = (weights.before > 0) - (weights.after > 0);
        if (change && type->to_left(row, other) && dz_kept_weight(&state->left, type->left, other) > 0)
            emit(base, other, change);
    }
    for (uint32_t at = 0; at < left->count; at++) {
        const uint64_t *row = dz_delta_row(left, type->left, at);
        dz_weights weights = dz_kept_add(base, &state->left, type->left, row, dz_row_hash(type->left, row),
                                         dz_delta_weight(left, type->left, at));
        int64_t change = (weights.after > 0) - (weights.before > 0);
        if (change && !(type->to_right(row, other) && dz_kept_weight(&state->right, type->right, other) > 0))
            emit(base, row, change);
    }
    dz_delta_clear(left);
    dz_delta_clear(right);
}

/* ---- gates ---------------------------------------------------------------------------------------------------- */

/* In so many slices the rows of a dataset are filled in; see `dist_zero/compiler/change.py`. */
#define DZ_SLICES 64u

/* What waits in front of a gate, by slice. `looked`: whether it was put there already. */
typedef struct {
    dz_delta slices[DZ_SLICES];
    uint32_t settled[DZ_SLICES];
    bool looked;
} dz_gate;

/* The slice of a row whose key has this hash. */
static inline uint32_t dz_slice_of(uint64_t hash)
{
    return (uint32_t)(hash % DZ_SLICES);
}

/* Lets a row wait. Its texts are held. */
static void dz_gate_wait(dz_base *base, dz_gate *gate, const dz_shape *shape, uint32_t slice, const uint64_t *row,
                         int64_t weight)
{
    dz_delta *waiting = &gate->slices[slice];
    dz_delta_add(base, waiting, shape, row, weight);
    dz_row_hold(base, shape, row);
    if (waiting->count < 1024 || waiting->count < 2 * (uint64_t)gate->settled[slice]) return;
    dz_delta_drop(base, waiting, shape);
    dz_consolidate(base, waiting, shape);
    dz_delta_hold(base, waiting, shape);
    gate->settled[slice] = waiting->count;
}

/* Lets rows that are not of a slice below `filled` wait; the others pass. */
static inline void dz_gate_sort(dz_base *base, dz_gate *gate, const dz_shape *shape, const dz_delta *rows, int64_t filled,
                                uint64_t (*key_hash)(const uint64_t *row), bool wait, bool pass,
                                void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    for (uint32_t at = 0; at < rows->count; at++) {
        const uint64_t *row = dz_delta_row(rows, shape, at);
        uint32_t slice = dz_slice_of(key_hash(row));
        int64_t weight = dz_delta_weight(rows, shape, at);
        if (slice >= filled && wait)
            dz_gate_wait(base, gate, shape, slice, row, weight);
        else if (slice < filled && pass)
            emit(base, row, weight);
    }
}

/* What passes a gate in a step that fills the slices from `start` up to `stop`, of what the source has changed. */
static inline void dz_gate_run(dz_base *base, dz_gate *gate, const dz_keyed_type *type, const dz_kept *rows, dz_delta *input,
                               int64_t start, int64_t stop, uint64_t (*key_hash)(const uint64_t *row),
                               void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    const dz_shape *shape = type->row;
    if (!gate->looked && start < DZ_SLICES) {
        dz_delta *all = dz_lend(base, shape);
        gate->looked = true;
        dz_keyed_entries(base, rows, type, all);
        dz_gate_sort(base, gate, shape, input, start, key_hash, false, true, emit);
        dz_gate_sort(base, gate, shape, all, start, key_hash, true, false, emit);
        dz_return(base, all, shape);
    } else
        dz_gate_sort(base, gate, shape, input, start < DZ_SLICES ? start : DZ_SLICES, key_hash, true, true, emit);
    dz_delta_clear(input);
    for (int64_t slice = start; slice < stop && slice < DZ_SLICES; slice++) {
        dz_delta *waiting = &gate->slices[slice];
        for (uint32_t at = 0; at < waiting->count; at++)
            emit(base, dz_delta_row(waiting, shape, at), dz_delta_weight(waiting, shape, at));
        dz_delta_drop(base, waiting, shape);
        dz_delta_free(base, waiting, shape);
        gate->settled[slice] = 0;
    }
}

/* Frees a gate. */
static void dz_gate_free(dz_base *base, dz_gate *gate, const dz_shape *shape)
{
    for (uint32_t slice = 0; slice < DZ_SLICES; slice++) dz_delta_free(base, &gate->slices[slice], shape);
}

/* ---- exchanges ------------------------------------------------------------------------------------------------ */

/* The shard map of the step, and which of its shards this node is. */
typedef struct {
    const uint64_t *lasts;
    uint32_t count, own;
} dz_shards;

/* An exchange. Rows that come in begin in `own.now`. Those for other shards move to `away` at the end of the step, to be
   sent in canonical order; those for this one stay, as they came, and wait for the next stage. */
typedef struct {
    dz_waiting own;
    dz_delta away;
    dz_order order, routed; /* what is sent in a step; `counts`: how many rows to each shard, `owners`: of each row */
    uint32_t *counts, *owners;
    uint32_t shards, capacity;
} dz_routing;

/* Writes a parcel: for which shard (-1: for each), of which exchange, and the rows. */
static void dz_write_parcel(dz_base *base, dz_output *out, int64_t shard, int64_t exchange, const dz_shape *shape,
                            const dz_sorted *rows, uint32_t count)
{
    dz_write(base, out, shard);
    dz_write(base, out, exchange);
    dz_write_rows(base, out, shape, rows, count, true);
}

/* Room to count the rows of each shard, and to note the shard of each row. */
static void dz_routing_reserve(dz_base *base, dz_routing *routing, uint32_t shards, uint32_t rows)
{
    if (shards > routing->shards) {
        uint32_t *counts = dz_alloc(base, shards * sizeof *counts);
        dz_free_memory(base, routing->counts, routing->shards * sizeof *counts);
        routing->counts = counts;
        routing->shards = shards;
    }
    if (rows > routing->capacity) {
        uint32_t *owners = dz_alloc(base, rows * sizeof *owners);
        dz_free_memory(base, routing->owners, routing->capacity * sizeof *owners);
        routing->owners = owners;
        routing->capacity = rows;
    }
    dz_order_reserve(base, &routing->routed, rows);
    memset(routing->counts, 0, shards * sizeof *routing->counts);
}

/* Leaves the rows of this shard in `own.now`, moves those of others to `away`, and notes their owners. `key_hash` says
   the hash; false if the key fails, which it has reported then, and the row goes nowhere. */
static inline void dz_exchange_divide(dz_base *base, dz_routing *routing, const dz_shape *shape, const dz_shards *shards,
                                      bool (*key_hash)(dz_base *, const uint64_t *row, int64_t weight, uint64_t *hash))
{
    dz_delta *own = &routing->own.now;
    uint32_t left = 0;
    for (uint32_t at = 0; at < own->count; at++) {
        const uint64_t *item = dz_delta_row(own, shape, at);
        int64_t weight = (int64_t)item[shape->words];
        uint64_t hash;
        if (!key_hash(base, item, weight, &hash)) continue;
        if (dz_owner(shards->lasts, shards->count, hash) != shards->own) {
            dz_delta_add(base, &routing->away, shape, item, weight);
            continue;
        }
        uint64_t *target = dz_delta_row(own, shape, left++);
        if (target != item) memcpy(target, item, dz_delta_stride(shape) * sizeof(uint64_t));
    }
    own->count = left;
}

/* Sends rows to the other shards that own the hashes of their keys, each shard's in canonical order. Returns how many
   parcels it wrote. */
static inline uint32_t dz_exchange_run(dz_base *base, dz_routing *routing, const dz_shape *shape,
                                       const dz_shards *shards, int64_t exchange, dz_output *out,
                                       bool (*key_hash)(dz_base *, const uint64_t *row, int64_t weight, uint64_t *hash))
{
    dz_order *order = &routing->order;
    uint32_t parcels = 0;
    dz_exchange_divide(base, routing, shape, shards, key_hash);
    if (!routing->away.count) return 0;
    dz_order_delta(base, order, &routing->away, shape);
    dz_routing_reserve(base, routing, shards->count, order->count);
    for (uint32_t at = 0; at < order->count; at++) {
        const uint64_t *row = order->rows[at].row;
        uint64_t hash = 0;
        key_hash(base, row, (int64_t)row[shape->words], &hash);
        uint32_t to = dz_owner(shards->lasts, shards->count, hash);
        routing->owners[at] = to;
        routing->counts[to]++;
    }
    uint32_t start = 0;
    for (uint32_t shard = 0; shard < shards->count; shard++) {
        uint32_t here = routing->counts[shard];
        routing->counts[shard] = start;
        start += here;
    }
    for (uint32_t at = 0; at < order->count; at++)
        routing->routed.rows[routing->counts[routing->owners[at]]++].row = order->rows[at].row;
    for (uint32_t shard = 0; shard < shards->count; shard++) {
        uint32_t first = shard ? routing->counts[shard - 1] : 0, count = routing->counts[shard] - first;
        if (!count) continue;
        dz_write_parcel(base, out, shard, exchange, shape, routing->routed.rows + first, count);
        parcels++;
    }
    dz_delta_clear(&routing->away);
    return parcels;
}

/* Sends all rows to every other shard; they stay here as well. Returns how many parcels it wrote. */
static inline uint32_t dz_broadcast_run(dz_base *base, dz_routing *routing, const dz_shape *shape,
                                        const dz_shards *shards, int64_t exchange, dz_output *out)
{
    const dz_delta *own = &routing->own.now;
    if (shards->count == 1) return 0;
    for (uint32_t at = 0; at < own->count; at++)
        dz_delta_add(base, &routing->away, shape, dz_delta_row(own, shape, at), dz_delta_weight(own, shape, at));
    dz_order_delta(base, &routing->order, &routing->away, shape);
    dz_delta_clear(&routing->away);
    if (!routing->order.count) return 0;
    dz_write_parcel(base, out, -1, exchange, shape, routing->order.rows, routing->order.count);
    return 1;
}

/* Frees what an exchange works with. */
static void dz_routing_free(dz_base *base, dz_routing *routing, const dz_shape *shape)
{
    dz_waiting_free(base, &routing->own, shape);
    dz_delta_free(base, &routing->away, shape);
    dz_order_free(base, &routing->order);
    dz_order_free(base, &routing->routed);
    dz_free_memory(base, routing->counts, routing->shards * sizeof *routing->counts);
    dz_free_memory(base, routing->owners, routing->capacity * sizeof *routing->owners);
}

#endif
