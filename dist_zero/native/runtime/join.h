/* The join operator, as reference/join.py defines it: both sides' rows are kept by key, and a change meets only the rows
that share its key; first the left's changes the right's old rows, then the right's changes the left's new rows.

A side's rows are the entries of a table (weight and stamp as in a Z-set, so that it is saved like one), and those of a
key are a chain through them. One table of keys has the heads of both sides' chains, so that a change is looked up once.

Rows may be shown alone: those without partners (outer, anti) or those with some (semi). Without a condition all rows of
a key have the same partners; a key's entry notes in the first change of a step whether either side had rows. With a
condition each row counts its partners, the sum of their weights; rows that a step touches are written down with what was
shown of them before, and those of weight 0 stay until the step's end.

What is rendered for a join is a constant `dz_join_spec`, so that everything here is made special for it. */

#ifndef DZ_JOIN_H
#define DZ_JOIN_H

#include "table.h"

/* A side; and what a report is of. */
enum { DZ_JOIN_LEFT, DZ_JOIN_RIGHT, DZ_JOIN_PAIR };

/* Which rows of a side are shown alone. */
enum { DZ_JOIN_NEVER, DZ_JOIN_UNMATCHED, DZ_JOIN_MATCHED };

typedef int dz_join_key(dz_base *base, const uint64_t *row, uint64_t *key);
typedef int dz_join_condition(dz_base *base, const uint64_t *both);
typedef void dz_join_emit(dz_base *base, const uint64_t *row, int64_t weight);
typedef void dz_join_report(dz_base *base, int what, const uint64_t *row, int64_t weight);

typedef struct {
    const dz_shape *sides[2];
    const dz_shape *key;
    const dz_shape *both;     /* of a pair, as the inputs are; for the condition and its reports */
    const dz_shape *output;   /* of what is emitted; of semi and anti joins, the left side's */
    dz_join_key *keys[2];     /* writes the key of a row; not 0 if it fails */
    dz_join_condition *condition; /* 1 for a match, 0 for none, below 0 if it fails; NULL: every pair of a key matches */
    bool pairs;               /* whether pairs are emitted: not of semi and anti joins */
    int shown[2];             /* which rows of a side are shown alone */
    dz_join_emit *emit;
    dz_join_report *report;   /* of a side's row whose key fails, and of a pair (as `both`) whose condition does */
} dz_join_spec;

/* The payload of a key: of each side the first row of the chain (its number from 1 on) and how many there are; and the
   last step that changed it, doubled twice, with whether the sides had rows before. */
enum { DZ_JOIN_CHAINS, DZ_JOIN_COUNTS = DZ_JOIN_CHAINS + 2, DZ_JOIN_MARK = DZ_JOIN_COUNTS + 2, DZ_JOIN_KEY_EXTRA };

/* The payload of a row: as of a Z-set; the numbers of the rows before and behind it in its chain, 0 for none; and, where
   partners are counted, their number and the last step that touched the row. */
enum { DZ_JOIN_LINKS = DZ_ZSET_EXTRA, DZ_JOIN_PARTNERS, DZ_JOIN_TOUCHED };

/* All zero is a join of nothing. `sides` are what is saved. `changed`: keys of this step. `touched`: rows of this step,
   each with what was shown of it before, as its weight. `loaded`: keys whose rows count their partners when settled. */
typedef struct {
    dz_kept sides[2];
    dz_table keys;
    uint64_t step;
    dz_delta changed;
    dz_delta touched[2];
    dz_table loaded;
} dz_join;

/* ---- what a spec says ----------------------------------------------------------------------------------------- */

/* Whether rows of a side count their partners. */
static inline bool dz_join_counts(const dz_join_spec *spec, int side)
{
    return spec->condition != NULL && spec->shown[side] != DZ_JOIN_NEVER;
}

/* How many words of payload a side's rows have; to go through what is saved. */
static inline uint32_t dz_join_extra(const dz_join_spec *spec, int side)
{
    return dz_join_counts(spec, side) ? DZ_JOIN_TOUCHED + 1 : DZ_JOIN_LINKS + 1;
}

/* Whether rows of a side are shown alone if they have partners, or have none. */
static inline bool dz_join_is_shown(const dz_join_spec *spec, int side, bool matched)
{
    return spec->shown[side] == (matched ? DZ_JOIN_MATCHED : DZ_JOIN_UNMATCHED);
}

/* Puts the null bits of a row behind the first columns of another. */
static inline void dz_join_put_nulls(uint64_t *out, uint32_t behind, const dz_shape *shape, const uint64_t *row)
{
    if (row && !shape->null_words) return;
    uint32_t shift = behind % 64;
    for (uint32_t word = 0; word * 64 < shape->columns; word++) {
        uint32_t rest = shape->columns - word * 64;
        uint64_t all = rest >= 64 ? UINT64_MAX : ((uint64_t)1 << rest) - 1, nulls = row ? row[word] : all;
        out[behind / 64 + word] |= nulls << shift;
        if (shift && nulls >> (64 - shift)) out[behind / 64 + word + 1] |= nulls >> (64 - shift);
    }
}

/* A left and a right row as one row of this shape; NULL for a side is nulls. */
static inline void dz_join_concatenate(const dz_join_spec *spec, const dz_shape *shape, const uint64_t *left,
                                       const uint64_t *right, uint64_t *out)
{
    const dz_shape *one = spec->sides[DZ_JOIN_LEFT], *other = spec->sides[DZ_JOIN_RIGHT];
    for (uint32_t word = 0; word < shape->null_words; word++) out[word] = 0;
    if (shape->null_words) {
        dz_join_put_nulls(out, 0, one, left);
        dz_join_put_nulls(out, one->columns, other, right);
    }
    out += shape->null_words;
    for (uint32_t column = 0; column < one->columns; column++) out[column] = left ? left[one->null_words + column] : 0;
    out += one->columns;
    for (uint32_t column = 0; column < other->columns; column++)
        out[column] = right ? right[other->null_words + column] : 0;
}

/* Emits a row of a side alone. */
static inline void dz_join_emit_alone(dz_base *base, const dz_join_spec *spec, int side, const uint64_t *row,
                                      int64_t weight)
{
    if (!spec->pairs) {
        spec->emit(base, row, weight);
        return;
    }
    uint64_t out[spec->output->words + 1];
    dz_join_concatenate(spec, spec->output, side == DZ_JOIN_LEFT ? row : NULL, side == DZ_JOIN_RIGHT ? row : NULL, out);
    spec->emit(base, out, weight);
}

/* ---- rows and chains ------------------------------------------------------------------------------------------ */

/* Entry number `number` of a side's rows, from 1 on: its payload. */
static inline uint64_t *dz_join_payload(const dz_join *join, const dz_join_spec *spec, int side, uint32_t number)
{
    const dz_shape *shape = spec->sides[side];
    return dz_table_entry(&join->sides[side].rows, shape, dz_join_extra(spec, side), number - 1) + shape->words;
}

/* The row that a payload belongs to. */
static inline uint64_t *dz_join_row(const dz_join_spec *spec, int side, uint64_t *payload)
{
    return payload - spec->sides[side]->words;
}

static inline uint32_t dz_join_before(const uint64_t *payload) { return (uint32_t)payload[DZ_JOIN_LINKS]; }
static inline uint32_t dz_join_behind(const uint64_t *payload) { return (uint32_t)(payload[DZ_JOIN_LINKS] >> 32); }
static inline uint64_t dz_join_links(uint32_t before, uint32_t behind) { return (uint64_t)behind << 32 | before; }

/* The payload of a row, which is put at the head of its key's chain if it is new. */
static inline uint64_t *dz_join_put(dz_base *base, dz_join *join, const dz_join_spec *spec, int side, uint64_t *chains,
                                    const uint64_t *row, uint64_t hash, bool *is_new)
{
    const dz_shape *shape = spec->sides[side];
    dz_kept *kept = &join->sides[side];
    uint64_t *entry = dz_table_put(base, &kept->rows, shape, dz_join_extra(spec, side), row, hash, is_new);
    uint64_t *payload = entry + shape->words;
    if (!*is_new) return payload;
    uint32_t number = kept->rows.count, head = (uint32_t)chains[DZ_JOIN_CHAINS + side];
    payload[DZ_JOIN_LINKS] = dz_join_links(0, head);
    if (head) {
        uint64_t *second = dz_join_payload(join, spec, side, head);
        second[DZ_JOIN_LINKS] = dz_join_links(number, dz_join_behind(second));
    }
    chains[DZ_JOIN_CHAINS + side] = number;
    chains[DZ_JOIN_COUNTS + side]++;
    return payload;
}

/* The entry of the key of a row that is kept: its payload. */
static inline uint64_t *dz_join_chains_of(dz_base *base, const dz_join *join, const dz_join_spec *spec, int side,
                                          const uint64_t *row)
{
    uint64_t key[spec->key->words + 1];
    if (spec->keys[side](base, row, key)) dz_raise(base, DZ_BUG, "the key of a kept row fails");
    uint64_t *entry = dz_table_find(&join->keys, spec->key, DZ_JOIN_KEY_EXTRA, key, dz_row_hash(spec->key, key));
    if (!entry) dz_raise(base, DZ_BUG, "a kept row has no key");
    return entry + spec->key->words;
}

/* Takes a row out of its chain and its table, where the last row takes its place. */
static inline void dz_join_remove(dz_base *base, dz_join *join, const dz_join_spec *spec, int side, uint64_t *chains,
                                  uint64_t *payload)
{
    dz_table *rows = &join->sides[side].rows;
    uint32_t before = dz_join_before(payload), behind = dz_join_behind(payload);
    if (before) {
        uint64_t *other = dz_join_payload(join, spec, side, before);
        other[DZ_JOIN_LINKS] = dz_join_links(dz_join_before(other), behind);
    } else {
        chains[DZ_JOIN_CHAINS + side] = behind;
    }
    if (behind) {
        uint64_t *other = dz_join_payload(join, spec, side, behind);
        other[DZ_JOIN_LINKS] = dz_join_links(before, dz_join_behind(other));
    }
    chains[DZ_JOIN_COUNTS + side]--;
    uint32_t last = rows->count;
    uint64_t *row = dz_join_row(spec, side, payload);
    uint64_t *moved = dz_join_payload(join, spec, side, last);
    if (moved == payload) {
        dz_table_remove(base, rows, spec->sides[side], dz_join_extra(spec, side), row);
        return;
    }
    uint64_t *moved_chains = NULL;
    if (!dz_join_before(moved)) /* it is the head of a chain, which has to know; asked before anything changes */
        moved_chains = dz_join_chains_of(base, join, spec, side, dz_join_row(spec, side, moved));
    dz_table_remove(base, rows, spec->sides[side], dz_join_extra(spec, side), row);
    uint32_t stride = dz_table_stride(spec->sides[side], dz_join_extra(spec, side));
    uint32_t number = (uint32_t)((size_t)(row - rows->entries) / stride) + 1;
    if (moved_chains) {
        moved_chains[DZ_JOIN_CHAINS + side] = number;
    } else {
        uint64_t *other = dz_join_payload(join, spec, side, dz_join_before(payload));
        other[DZ_JOIN_LINKS] = dz_join_links(dz_join_before(other), number);
    }
    if (dz_join_behind(payload)) {
        uint64_t *other = dz_join_payload(join, spec, side, dz_join_behind(payload));
        other[DZ_JOIN_LINKS] = dz_join_links(number, dz_join_behind(other));
    }
}

/* ---- a step --------------------------------------------------------------------------------------------------- */

/* Whether this step was the last to change a key; its mark then says whether the sides had rows before. */
static inline bool dz_join_is_marked(const dz_join *join, const uint64_t *chains)
{
    return chains[DZ_JOIN_MARK] >> 2 == join->step;
}

/* Notes a key that this step changes, once. */
static inline void dz_join_mark(dz_base *base, dz_join *join, const dz_join_spec *spec, const uint64_t *key,
                                uint64_t *chains)
{
    if (dz_join_is_marked(join, chains)) return;
    dz_delta_add(base, &join->changed, spec->key, key, 1);
    uint64_t had = (chains[DZ_JOIN_COUNTS] ? 1u : 0u) | (chains[DZ_JOIN_COUNTS + 1] ? 2u : 0u);
    chains[DZ_JOIN_MARK] = join->step << 2 | had;
}

/* Writes down what is shown of a row before the step changes it, once. */
static inline void dz_join_touch(dz_base *base, dz_join *join, const dz_join_spec *spec, int side, uint64_t *payload)
{
    if (!dz_join_counts(spec, side) || payload[DZ_JOIN_TOUCHED] == join->step) return;
    bool shown = dz_join_is_shown(spec, side, (int64_t)payload[DZ_JOIN_PARTNERS] > 0);
    dz_delta_add(base, &join->touched[side], spec->sides[side], dz_join_row(spec, side, payload),
                 shown ? (int64_t)payload[DZ_ZSET_WEIGHT] : 0);
    payload[DZ_JOIN_TOUCHED] = join->step;
}

/* Adds to the partners of a row. */
static inline void dz_join_count(dz_base *base, dz_join *join, const dz_join_spec *spec, int side, uint64_t *payload,
                                 int64_t weight)
{
    if (!dz_join_counts(spec, side)) return;
    dz_join_touch(base, join, spec, side, payload);
    payload[DZ_JOIN_PARTNERS] = (uint64_t)dz_add_weights(base, (int64_t)payload[DZ_JOIN_PARTNERS], weight);
}

/* Whether the condition holds for a pair; one on which it fails is reported, unless it is there 0 times, and no match. */
static inline bool dz_join_matches(dz_base *base, const dz_join_spec *spec, const uint64_t *left, const uint64_t *right,
                                   int64_t weight, int64_t times)
{
    if (!spec->condition) return true;
    uint64_t both[spec->both->words + 1];
    dz_join_concatenate(spec, spec->both, left, right, both);
    int matches = spec->condition(base, both);
    if (DZ_UNLIKELY(matches < 0) && times)
        spec->report(base, DZ_JOIN_PAIR, both, dz_multiply_weights(base, weight, times));
    return matches > 0;
}

/* A changed row of one side meets all rows of its key on the other. `is_new`: its partners are not counted yet. */
static inline void dz_join_meet(dz_base *base, dz_join *join, const dz_join_spec *spec, int side, const uint64_t *chains,
                                const uint64_t *row, uint64_t *payload, int64_t weight, bool is_new)
{
    int other_side = 1 - side;
    if (!spec->pairs && !spec->condition) return;
    uint32_t number = (uint32_t)chains[DZ_JOIN_CHAINS + other_side];
    while (number) {
        uint64_t *other = dz_join_payload(join, spec, other_side, number);
        number = dz_join_behind(other);
        if (number) __builtin_prefetch(dz_join_payload(join, spec, other_side, number));
        int64_t times = (int64_t)other[DZ_ZSET_WEIGHT];
        if (times == 0) continue; /* went in this step */
        const uint64_t *other_row = dz_join_row(spec, other_side, other);
        const uint64_t *left = side == DZ_JOIN_LEFT ? row : other_row, *right = side == DZ_JOIN_LEFT ? other_row : row;
        if (!dz_join_matches(base, spec, left, right, weight, times)) continue;
        if (spec->pairs) {
            uint64_t out[spec->output->words + 1];
            dz_join_concatenate(spec, spec->output, left, right, out);
            spec->emit(base, out, dz_multiply_weights(base, weight, times));
        }
        dz_join_count(base, join, spec, other_side, other, weight);
        if (is_new) dz_join_count(base, join, spec, side, payload, times);
    }
}

/* One change of a side whose key is known and has no null. */
static inline void dz_join_change(dz_base *base, dz_join *join, const dz_join_spec *spec, int side, const uint64_t *key,
                                  uint64_t key_hash, const uint64_t *row, uint64_t hash, int64_t weight)
{
    bool is_new, by_key = !spec->condition && (spec->shown[0] != DZ_JOIN_NEVER || spec->shown[1] != DZ_JOIN_NEVER);
    uint64_t *chains = dz_table_put(base, &join->keys, spec->key, DZ_JOIN_KEY_EXTRA, key, key_hash, &is_new);
    chains += spec->key->words;
    if (by_key || is_new) dz_join_mark(base, join, spec, key, chains);
    uint64_t *payload = dz_join_put(base, join, spec, side, chains, row, hash, &is_new);
    int64_t before = (int64_t)payload[DZ_ZSET_WEIGHT], after = dz_add_weights(base, before, weight);
    dz_join_touch(base, join, spec, side, payload);
    dz_kept_note(base, &join->sides[side], spec->sides[side], row, hash, &payload[DZ_ZSET_STAMP]);
    dz_join_meet(base, join, spec, side, chains, row, payload, weight, is_new);
    payload[DZ_ZSET_WEIGHT] = (uint64_t)after;
    if (by_key && spec->shown[side] != DZ_JOIN_NEVER) {
        bool matched = chains[DZ_JOIN_MARK] >> (1 - side) & 1;
        if (dz_join_is_shown(spec, side, matched)) dz_join_emit_alone(base, spec, side, row, weight);
    }
    if (after || dz_join_counts(spec, side)) return;
    dz_join_mark(base, join, spec, key, chains); /* which may be without rows now, and then goes */
    dz_join_remove(base, join, spec, side, chains, payload);
}

/* All changes of a side: first the keys of some, so that what they lead to is there when it is looked at. */
static inline void dz_join_changes(dz_base *base, dz_join *join, const dz_join_spec *spec, int side, dz_delta *delta)
{
    const dz_shape *shape = spec->sides[side];
    uint32_t key_words = spec->key->words + 1;
    uint64_t keys[DZ_AHEAD * key_words], key_hashes[DZ_AHEAD], hashes[DZ_AHEAD];
    bool known[DZ_AHEAD];
    if (delta->negative) dz_consolidate(base, delta, shape);
    for (uint32_t start = 0; start < delta->count; start += DZ_AHEAD) {
        uint32_t some = delta->count - start < DZ_AHEAD ? delta->count - start : DZ_AHEAD;
        for (uint32_t at = 0; at < some; at++) {
            const uint64_t *row = dz_delta_row(delta, shape, start + at);
            int64_t weight = dz_delta_weight(delta, shape, start + at);
            uint64_t *key = keys + at * key_words;
            known[at] = false;
            if (weight == 0) continue;
            if (DZ_UNLIKELY(spec->keys[side](base, row, key))) {
                spec->report(base, side, row, weight);
            } else if (dz_any_null(spec->key, key)) {
                if (spec->shown[side] == DZ_JOIN_UNMATCHED) dz_join_emit_alone(base, spec, side, row, weight);
            } else {
                known[at] = true;
                key_hashes[at] = dz_row_hash(spec->key, key);
                hashes[at] = dz_row_hash(shape, row);
                dz_table_prefetch(&join->keys, key_hashes[at]);
                dz_table_prefetch(&join->sides[side].rows, hashes[at]);
            }
        }
        for (uint32_t at = 0; at < some; at++) {
            if (!known[at]) continue;
            dz_table_prefetch_entry(&join->keys, spec->key, DZ_JOIN_KEY_EXTRA, key_hashes[at]);
            dz_table_prefetch_entry(&join->sides[side].rows, shape, dz_join_extra(spec, side), hashes[at]);
        }
        for (uint32_t at = 0; at < some; at++)
            if (known[at])
                dz_join_change(base, join, spec, side, keys + at * key_words, key_hashes[at],
                               dz_delta_row(delta, shape, start + at), hashes[at],
                               dz_delta_weight(delta, shape, start + at));
    }
}

/* Emits what became of the rows that count their partners and were touched; rows of weight 0 go. */
static inline void dz_join_show_touched(dz_base *base, dz_join *join, const dz_join_spec *spec, int side)
{
    if (!dz_join_counts(spec, side)) return;
    const dz_shape *shape = spec->sides[side];
    dz_delta *touched = &join->touched[side];
    for (uint32_t at = 0; at < touched->count; at++) {
        const uint64_t *row = dz_delta_row(touched, shape, at);
        int64_t before = dz_delta_weight(touched, shape, at);
        uint64_t *entry = dz_table_find(&join->sides[side].rows, shape, dz_join_extra(spec, side), row,
                                        dz_row_hash(shape, row));
        if (!entry) dz_raise(base, DZ_BUG, "a touched row is gone");
        uint64_t *payload = entry + shape->words;
        int64_t weight = (int64_t)payload[DZ_ZSET_WEIGHT], after = 0;
        if (dz_join_is_shown(spec, side, (int64_t)payload[DZ_JOIN_PARTNERS] > 0)) after = weight;
        if (after != before)
            dz_join_emit_alone(base, spec, side, row, dz_add_weights(base, after, dz_multiply_weights(base, before, -1)));
        if (weight) continue;
        uint64_t key[spec->key->words + 1];
        uint64_t *chains = dz_join_chains_of(base, join, spec, side, row);
        dz_row_copy(spec->key, key, chains - spec->key->words);
        dz_join_mark(base, join, spec, key, chains);
        dz_join_remove(base, join, spec, side, chains, payload);
    }
}

/* Emits the rows of a side that are shown alone now and were not before, or the other way round: all of a key. */
static inline void dz_join_show_key(dz_base *base, dz_join *join, const dz_join_spec *spec, int side,
                                    const uint64_t *chains)
{
    if (spec->condition || spec->shown[side] == DZ_JOIN_NEVER) return;
    bool before = chains[DZ_JOIN_MARK] >> (1 - side) & 1, after = chains[DZ_JOIN_COUNTS + 1 - side] != 0;
    if (before == after) return;
    int64_t sign = dz_join_is_shown(spec, side, after) ? 1 : -1;
    uint32_t number = (uint32_t)chains[DZ_JOIN_CHAINS + side];
    while (number) {
        uint64_t *payload = dz_join_payload(join, spec, side, number);
        number = dz_join_behind(payload);
        int64_t weight = dz_multiply_weights(base, (int64_t)payload[DZ_ZSET_WEIGHT], sign);
        dz_join_emit_alone(base, spec, side, dz_join_row(spec, side, payload), weight);
    }
}

/* Forgets keys of this step that have no rows any more. */
static inline void dz_join_forget_keys(dz_base *base, dz_join *join, const dz_join_spec *spec)
{
    for (uint32_t at = 0; at < join->changed.count; at++) {
        const uint64_t *key = dz_delta_row(&join->changed, spec->key, at);
        uint64_t *entry = dz_table_find(&join->keys, spec->key, DZ_JOIN_KEY_EXTRA, key, dz_row_hash(spec->key, key));
        const uint64_t *chains = entry + spec->key->words;
        if (entry && !chains[DZ_JOIN_COUNTS] && !chains[DZ_JOIN_COUNTS + 1])
            dz_table_remove(base, &join->keys, spec->key, DZ_JOIN_KEY_EXTRA, entry);
    }
    dz_delta_clear(&join->changed);
}

/* Takes in the changes of both sides, which may be consolidated in place, and emits those of the joined rows. */
static inline void dz_join_step(dz_base *base, dz_join *join, const dz_join_spec *spec, dz_delta *left, dz_delta *right)
{
    join->step++;
    dz_join_changes(base, join, spec, DZ_JOIN_LEFT, left);
    dz_join_changes(base, join, spec, DZ_JOIN_RIGHT, right);
    for (int side = 0; side < 2; side++) {
        dz_join_show_touched(base, join, spec, side);
        dz_delta_clear(&join->touched[side]);
    }
    for (uint32_t at = 0; !spec->condition && at < join->changed.count; at++) {
        const uint64_t *key = dz_delta_row(&join->changed, spec->key, at);
        const uint64_t *entry = dz_table_find(&join->keys, spec->key, DZ_JOIN_KEY_EXTRA, key, dz_row_hash(spec->key, key));
        for (int side = 0; entry && side < 2; side++)
            dz_join_show_key(base, join, spec, side, entry + spec->key->words);
    }
    dz_join_forget_keys(base, join, spec);
}

/* ---- loading -------------------------------------------------------------------------------------------------- */

/* Takes in a saved row of a side, of negative weight to take it back. `dz_join_settle` has to follow. */
static inline void dz_join_take(dz_base *base, dz_join *join, const dz_join_spec *spec, int side, const uint64_t *row,
                                int64_t weight)
{
    uint64_t key[spec->key->words + 1];
    if (spec->keys[side](base, row, key)) dz_raise(base, DZ_MALFORMED, "saved state has a row that is left out: its join key fails");
    if (dz_any_null(spec->key, key)) dz_raise(base, DZ_MALFORMED, "the saved state of a join has a row without a key");
    if (weight == 0) return;
    bool is_new;
    uint64_t key_hash = dz_row_hash(spec->key, key);
    uint64_t *chains = dz_table_put(base, &join->keys, spec->key, DZ_JOIN_KEY_EXTRA, key, key_hash, &is_new);
    chains += spec->key->words;
    uint64_t *payload = dz_join_put(base, join, spec, side, chains, row, dz_row_hash(spec->sides[side], row), &is_new);
    payload[DZ_ZSET_WEIGHT] = (uint64_t)dz_add_weights(base, (int64_t)payload[DZ_ZSET_WEIGHT], weight);
    if (dz_join_counts(spec, 0) || dz_join_counts(spec, 1))
        dz_table_put(base, &join->loaded, spec->key, 0, key, key_hash, &is_new);
    if (payload[DZ_ZSET_WEIGHT]) return;
    dz_join_remove(base, join, spec, side, chains, payload);
    if (!chains[DZ_JOIN_COUNTS] && !chains[DZ_JOIN_COUNTS + 1])
        dz_table_remove(base, &join->keys, spec->key, DZ_JOIN_KEY_EXTRA, chains - spec->key->words);
}

/* Counts the partners of all rows of a key anew. What fails is no match, and was reported in its time. */
static inline void dz_join_count_key(dz_base *base, dz_join *join, const dz_join_spec *spec, const uint64_t *chains)
{
    for (int side = 0; side < 2; side++)
        for (uint32_t number = (uint32_t)chains[DZ_JOIN_CHAINS + side]; number && dz_join_counts(spec, side);) {
            uint64_t *payload = dz_join_payload(join, spec, side, number);
            payload[DZ_JOIN_PARTNERS] = 0;
            number = dz_join_behind(payload);
        }
    for (uint32_t left = (uint32_t)chains[DZ_JOIN_CHAINS]; left;) {
        uint64_t *one = dz_join_payload(join, spec, DZ_JOIN_LEFT, left);
        left = dz_join_behind(one);
        for (uint32_t right = (uint32_t)chains[DZ_JOIN_CHAINS + 1]; right;) {
            uint64_t *other = dz_join_payload(join, spec, DZ_JOIN_RIGHT, right);
            right = dz_join_behind(other);
            if (!dz_join_matches(base, spec, dz_join_row(spec, DZ_JOIN_LEFT, one), dz_join_row(spec, DZ_JOIN_RIGHT, other), 0, 0))
                continue;
            for (int side = 0; side < 2; side++) {
                if (!dz_join_counts(spec, side)) continue;
                uint64_t *partners = (side == DZ_JOIN_LEFT ? one : other) + DZ_JOIN_PARTNERS;
                int64_t times = (int64_t)(side == DZ_JOIN_LEFT ? other : one)[DZ_ZSET_WEIGHT];
                *partners = (uint64_t)dz_add_weights(base, (int64_t)*partners, times);
            }
        }
    }
}

/* Counts the partners of the rows of at most so many of the keys that were loaded; whether there are more. */
static inline bool dz_join_settle(dz_base *base, dz_join *join, const dz_join_spec *spec, uint32_t count)
{
    for (; count && join->loaded.count; count--) {
        uint64_t *key = dz_table_entry(&join->loaded, spec->key, 0, join->loaded.count - 1);
        const uint64_t *entry = dz_table_find(&join->keys, spec->key, DZ_JOIN_KEY_EXTRA, key, dz_row_hash(spec->key, key));
        if (entry) dz_join_count_key(base, join, spec, entry + spec->key->words);
        dz_table_remove(base, &join->loaded, spec->key, 0, key);
    }
    if (join->loaded.count) return true;
    dz_table_free(base, &join->loaded, spec->key, 0);
    return false;
}

/* Gives the memory back. */
static inline void dz_join_free(dz_base *base, dz_join *join, const dz_join_spec *spec)
{
    for (int side = 0; side < 2; side++) {
        dz_kept_free(base, &join->sides[side], spec->sides[side], dz_join_extra(spec, side));
        dz_delta_free(base, &join->touched[side], spec->sides[side]);
    }
    dz_delta_free(base, &join->changed, spec->key);
    dz_table_free(base, &join->keys, spec->key, DZ_JOIN_KEY_EXTRA);
    dz_table_free(base, &join->loaded, spec->key, 0);
}

#endif
