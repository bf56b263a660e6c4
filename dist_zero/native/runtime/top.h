/* The first rows of each group, kept right while rows come and go; `reference/top.py` is the definition.

Each group has its rows in order, with their weights: a row of weight w takes w places. A change behind the last row that
is shown costs the logarithm of the group's size. The first change in a step that may alter what is shown notes what is
shown at that time, which is the beginning of the group; when all changes are in, the old beginning and the new one, both
in order, are gone through side by side, and what differs is emitted.

A top that sees a part of its one group keeps what it has shown as a table, since that is state of its own: after a load
it may be something else than the beginning of the group, until the next step. */

#ifndef DZ_TOP_H
#define DZ_TOP_H

#include "core.h"
#include "ordered.h"
#include "table.h"

/* A top's constants. An entry of a group is what it sorts by (`order`: values that are no columns of the row), the row,
   and its weight; `compare` looks at both rows, and finds only equal ones equal. `shown` is the row, and the rank behind
   it. `place` says in which group a row is and what it sorts by, or why an expression fails. */
typedef struct {
    const dz_shape *row, *per, *order, *shown;
    int64_t count;
    bool rank, part;
    int (*place)(dz_base *, const uint64_t *row, uint64_t *per, uint64_t *order);
    dz_compare *compare;
} dz_top_type;

/* What of a group matters to what is shown: not known yet; everything, as there are places left; or what does not sort
   behind `last`. */
enum { DZ_TOP_UNKNOWN, DZ_TOP_ALL, DZ_TOP_TO_LAST };

/* The payload of a group; `step`: the number of the last step in which it was touched. */
typedef struct {
    dz_ordered entries;
    uint64_t matters;
    uint64_t step;
    uint64_t last[];
} dz_top_group;

/* A group that is touched: its number, and how many of the items that are noted are of it. */
typedef struct {
    uint32_t group, items;
} dz_top_touched;

/* All zero is a top of nothing. `items`: entries, each with the places in front of it, for use within a step. */
typedef struct {
    dz_kept rows, shown;
    dz_table groups;
    uint64_t step;
    bool unsettled;
    uint64_t *items;
    uint64_t item_count, item_capacity;
    dz_top_touched *touched;
    uint32_t touched_count, touched_capacity;
    dz_delta changes;
} dz_top;

/* ---- groups --------------------------------------------------------------------------------------------------- */

/* How many words an entry has, without and with its weight. */
static inline uint32_t dz_top_key_words(const dz_top_type *type)
{
    return type->order->words + type->row->words;
}

static inline uint32_t dz_top_words(const dz_top_type *type)
{
    return dz_top_key_words(type) + 1;
}

/* How many words a group's payload has. */
static inline uint32_t dz_top_extra(const dz_top_type *type)
{
    return (uint32_t)(sizeof(dz_top_group) / 8) + dz_top_key_words(type);
}

/* The payload of group number `number`. */
static inline dz_top_group *dz_top_group_at(const dz_top *top, const dz_top_type *type, uint32_t number)
{
    return (dz_top_group *)(dz_table_entry(&top->groups, type->per, dz_top_extra(type), number) + type->per->words);
}

/* The number of a group; a new one, if there is none. */
static inline uint32_t dz_top_group_of(dz_base *base, dz_top *top, const dz_top_type *type, const uint64_t *per)
{
    bool is_new;
    uint32_t extra = dz_top_extra(type);
    uint64_t *entry = dz_table_put(base, &top->groups, type->per, extra, per, dz_row_hash(type->per, per), &is_new);
    return (uint32_t)((size_t)(entry - top->groups.entries) / dz_table_stride(type->per, extra));
}

/* Notes an entry that is shown, with the places that it has and those in front of it. */
static inline void dz_top_note(dz_base *base, dz_top *top, const dz_top_type *type, const uint64_t *entry, int64_t weight,
                               int64_t taken)
{
    uint32_t words = dz_top_words(type);
    size_t size = ((size_t)words + 1) * 8;
    if (top->item_count == top->item_capacity) {
        uint64_t capacity = top->item_capacity ? top->item_capacity * 2 : 16;
        top->items = dz_realloc(base, top->items, top->item_capacity * size, capacity * size);
        top->item_capacity = capacity;
    }
    uint64_t *item = top->items + top->item_count++ * ((size_t)words + 1);
    memcpy(item, entry, ((size_t)words - 1) * 8);
    item[words - 1] = (uint64_t)weight;
    item[words] = (uint64_t)taken;
}

/* Goes through the beginning of a group, to find out what matters and, if `note` is set, to note what is to be shown. */
static inline void dz_top_look(dz_base *base, dz_top *top, const dz_top_type *type, uint32_t number, bool note)
{
    dz_top_group *group = dz_top_group_at(top, type, number);
    uint32_t words = dz_top_words(type);
    int64_t taken = 0;
    dz_cursor cursor;
    group->matters = DZ_TOP_ALL;
    for (uint64_t *entry = dz_cursor_first(&cursor, &group->entries, words); entry;
         entry = dz_cursor_next(&cursor, words)) {
        int64_t weight = (int64_t)entry[words - 1];
        __int128 left = (__int128)type->count - taken; /* a row of negative weight makes it more than there were */
        if (weight > left) weight = (int64_t)left;
        if (note) dz_top_note(base, top, type, entry, weight, taken);
        taken = dz_add_weights(base, taken, weight);
        if (taken == type->count) {
            group->matters = DZ_TOP_TO_LAST;
            memcpy(group->last, entry, ((size_t)words - 1) * 8);
            return;
        }
    }
}

/* Changes an entry of a group, whose row's weight changes. The texts of what it sorts by are held here. */
static inline void dz_top_change(dz_base *base, dz_top_group *group, const dz_top_type *type, uint64_t *entry,
                                 dz_weights weights)
{
    uint32_t words = dz_top_words(type);
    if (weights.before == weights.after) return;
    if (weights.after == 0) {
        if (dz_ordered_remove(base, &group->entries, words, type->compare, entry, NULL))
            dz_row_drop(base, type->order, entry);
        return;
    }
    bool is_new;
    entry[words - 1] = (uint64_t)weights.after;
    uint64_t *found = dz_ordered_insert(base, &group->entries, words, type->compare, entry, &is_new);
    if (is_new)
        dz_row_hold(base, type->order, entry);
    else
        found[words - 1] = (uint64_t)weights.after;
}

/* Removes a group. */
static inline void dz_top_remove(dz_base *base, dz_top *top, const dz_top_type *type, uint32_t number)
{
    uint32_t extra = dz_top_extra(type);
    dz_table_remove(base, &top->groups, type->per, extra, dz_table_entry(&top->groups, type->per, extra, number));
}

/* ---- what is shown -------------------------------------------------------------------------------------------- */

/* A row with one more column behind it, which is not null: `out` has the shape `wider`. */
static inline void dz_row_append(const dz_shape *shape, const uint64_t *row, const dz_shape *wider, uint64_t word,
                                 uint64_t *out)
{
    for (uint32_t at = 0; at < wider->null_words; at++) out[at] = at < shape->null_words ? row[at] : 0;
    for (uint32_t at = 0; at < shape->columns; at++) out[wider->null_words + at] = row[shape->null_words + at];
    out[wider->null_words + shape->columns] = word;
}

/* Emits the rows of an item, each with `sign`, without those that are of the item `but` of the same row as well. */
static inline void dz_top_tell(dz_base *base, const dz_top_type *type, const uint64_t *item, const uint64_t *but,
                               int64_t sign, void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    uint32_t words = dz_top_words(type);
    const uint64_t *row = item + type->order->words;
    int64_t places = (int64_t)item[words - 1], taken = (int64_t)item[words];
    if (!type->rank) {
        /* Of what is in both, only the second pass says the difference. */
        int64_t change = but ? (sign > 0 ? places - (int64_t)but[words - 1] : 0) : sign * places;
        if (change) emit(base, row, change);
        return;
    }
    int64_t from = but ? (int64_t)but[words] : 0, to = but ? from + (int64_t)but[words - 1] : 0;
    uint64_t ranked[type->shown->words + 1];
    for (int64_t before = taken; before < taken + places; before++) {
        if (but && before >= from && before < to) continue;
        dz_row_append(type->row, row, type->shown, (uint64_t)(before + 1), ranked);
        emit(base, ranked, sign);
    }
}

/* Goes through the old beginning of a group and its new one side by side; emits what is in the old one only (`gone`), or
   what is in the new one only. */
static inline void dz_top_differ(dz_base *base, const dz_top_type *type, const uint64_t *old, uint64_t old_count,
                                 const uint64_t *fresh, uint64_t fresh_count, bool gone,
                                 void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    size_t stride = (size_t)dz_top_words(type) + 1;
    const uint64_t *old_end = old + old_count * stride, *fresh_end = fresh + fresh_count * stride;
    while (old < old_end || fresh < fresh_end) {
        int order = old == old_end ? 1 : fresh == fresh_end ? -1 : type->compare(old, fresh);
        if (gone && order <= 0) dz_top_tell(base, type, old, order ? NULL : fresh, -1, emit);
        if (!gone && order >= 0) dz_top_tell(base, type, fresh, order ? NULL : old, 1, emit);
        if (order <= 0) old += stride;
        if (order >= 0) fresh += stride;
    }
}

/* The difference between what a part has shown and the beginning of its group, to `changes`. */
static inline void dz_top_part_differ(dz_base *base, dz_top *top, const dz_top_type *type)
{
    uint32_t words = dz_top_words(type), extra = DZ_ZSET_EXTRA;
    const dz_shape *shown = type->shown;
    uint64_t row[shown->words + 1];
    dz_table fresh = {0};
    top->item_count = 0;
    if (top->groups.count) dz_top_look(base, top, type, 0, true); /* the only one */
    for (uint64_t at = 0; at < top->item_count; at++) {
        const uint64_t *item = top->items + at * ((size_t)words + 1);
        int64_t places = (int64_t)item[words - 1], taken = (int64_t)item[words];
        if (!type->rank)
            dz_zset_add(base, &fresh, shown, item + type->order->words,
                        dz_row_hash(shown, item + type->order->words), places);
        for (int64_t before = taken; type->rank && before < taken + places; before++) {
            dz_row_append(type->row, item + type->order->words, shown, (uint64_t)(before + 1), row);
            dz_zset_add(base, &fresh, shown, row, dz_row_hash(shown, row), 1);
        }
    }
    dz_delta_clear(&top->changes);
    for (uint32_t at = 0; at < top->shown.rows.count; at++) {
        const uint64_t *entry = dz_table_entry(&top->shown.rows, shown, extra, at);
        if (!dz_table_find(&fresh, shown, extra, entry, dz_row_hash(shown, entry)))
            dz_delta_add(base, &top->changes, shown, entry, -(int64_t)entry[shown->words + DZ_ZSET_WEIGHT]);
    }
    for (uint32_t at = 0; at < fresh.count; at++) {
        const uint64_t *entry = dz_table_entry(&fresh, shown, extra, at);
        int64_t weight = (int64_t)entry[shown->words + DZ_ZSET_WEIGHT];
        int64_t change = weight - dz_kept_weight(&top->shown, shown, entry);
        if (change) dz_delta_add(base, &top->changes, shown, entry, change);
    }
    dz_table_free(base, &fresh, shown, extra);
}

/* ---- steps ---------------------------------------------------------------------------------------------------- */

/* Notes that a group is touched, and what is shown of it before it changes. */
static inline void dz_top_touch(dz_base *base, dz_top *top, const dz_top_type *type, uint32_t number)
{
    if (top->touched_count == top->touched_capacity) {
        uint32_t capacity = top->touched_capacity ? top->touched_capacity * 2 : 16;
        top->touched = dz_realloc(base, top->touched, top->touched_capacity * sizeof *top->touched,
                                  capacity * sizeof *top->touched);
        top->touched_capacity = capacity;
    }
    uint64_t before = top->item_count;
    if (!type->part) dz_top_look(base, top, type, number, true);
    top->touched[top->touched_count++] = (dz_top_touched){number, (uint32_t)(top->item_count - before)};
    dz_top_group_at(top, type, number)->step = top->step;
}

/* Takes in one change of a row. */
static inline void dz_top_take_change(dz_base *base, dz_top *top, const dz_top_type *type, const uint64_t *row,
                                      int64_t weight, void (*fail)(dz_base *, const uint64_t *, int64_t))
{
    uint64_t per[type->per->words + 1], entry[dz_top_words(type)];
    if (type->place(base, row, per, entry)) {
        fail(base, row, weight);
        return;
    }
    dz_row_copy(type->row, entry + type->order->words, row);
    uint32_t number = dz_top_group_of(base, top, type, per);
    dz_top_group *group = dz_top_group_at(top, type, number);
    if (group->step != top->step) {
        if (group->matters == DZ_TOP_UNKNOWN) dz_top_look(base, top, type, number, false);
        if (group->matters == DZ_TOP_ALL || type->compare(group->last, entry) >= 0)
            dz_top_touch(base, top, type, number);
    }
    dz_top_change(base, group, type, entry,
                  dz_kept_add(base, &top->rows, type->row, row, dz_row_hash(type->row, row), weight));
}

/* The order in which groups are removed: the last one first, since the last one takes the place of one that goes. */
static int dz_top_later_first(const void *left, const void *right)
{
    uint32_t a = ((const dz_top_touched *)left)->group, b = ((const dz_top_touched *)right)->group;
    return a < b ? 1 : a > b ? -1 : 0;
}

/* Removes those of the touched groups that have no rows any more. */
static inline void dz_top_clear_empty(dz_base *base, dz_top *top, const dz_top_type *type)
{
    uint32_t empty = 0;
    for (uint32_t at = 0; at < top->touched_count; at++)
        if (dz_top_group_at(top, type, top->touched[at].group)->entries.count == 0)
            top->touched[empty++] = top->touched[at];
    if (empty > 1) qsort(top->touched, empty, sizeof *top->touched, dz_top_later_first);
    for (uint32_t at = 0; at < empty; at++) dz_top_remove(base, top, type, top->touched[at].group);
    top->touched_count = 0;
}

/* Emits what is shown of a part now and was not, and keeps it. */
static inline void dz_top_show_part(dz_base *base, dz_top *top, const dz_top_type *type,
                                    void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    if (top->touched_count == 0 && !top->unsettled) return;
    top->unsettled = false;
    dz_top_part_differ(base, top, type);
    for (uint32_t at = 0; at < top->changes.count; at++) {
        const uint64_t *row = dz_delta_row(&top->changes, type->shown, at);
        int64_t weight = dz_delta_weight(&top->changes, type->shown, at);
        dz_kept_add(base, &top->shown, type->shown, row, dz_row_hash(type->shown, row), weight);
        emit(base, row, weight);
    }
    dz_delta_clear(&top->changes);
}

/* Emits what is shown of the touched groups now and was not. */
static inline void dz_top_show(dz_base *base, dz_top *top, const dz_top_type *type,
                               void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    size_t stride = (size_t)dz_top_words(type) + 1;
    uint64_t noted = top->item_count, from = 0;
    for (uint32_t at = 0; at < top->touched_count; at++) {
        uint32_t items = top->touched[at].items;
        dz_top_look(base, top, type, top->touched[at].group, true);
        const uint64_t *old = top->items + from * stride, *fresh = top->items + noted * stride;
        for (int pass = 0; pass < 2; pass++)
            dz_top_differ(base, type, old, items, fresh, top->item_count - noted, pass == 0, emit);
        top->item_count = noted;
        from += items;
    }
}

/* Takes in the changes of a step, and emits those of the groups' first rows. What goes, goes first: the new version of a
   row may sort where the old one still is. `fail` is told of rows that have no place. */
static inline void dz_top_run(dz_base *base, dz_top *top, const dz_top_type *type, dz_delta *input,
                              void (*fail)(dz_base *, const uint64_t *, int64_t),
                              void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    const dz_shape *shape = type->row;
    dz_consolidate(base, input, shape);
    top->step++;
    top->item_count = 0;
    for (int pass = input->negative ? 0 : 1; pass < 2; pass++)
        for (uint32_t at = 0; at < input->count; at++) {
            int64_t weight = dz_delta_weight(input, shape, at);
            if ((weight > 0) == (pass == 1))
                dz_top_take_change(base, top, type, dz_delta_row(input, shape, at), weight, fail);
        }
    dz_delta_clear(input);
    if (type->part)
        dz_top_show_part(base, top, type, emit);
    else
        dz_top_show(base, top, type, emit);
    dz_top_clear_empty(base, top, type);
    top->item_count = 0;
}

/* ---- saved state ---------------------------------------------------------------------------------------------- */

/* Takes in a saved row, or takes it back. */
static inline void dz_top_take(dz_base *base, dz_top *top, const dz_top_type *type, const uint64_t *row, int64_t weight)
{
    uint64_t per[type->per->words + 1], entry[dz_top_words(type)];
    if (type->place(base, row, per, entry)) dz_raise(base, DZ_MALFORMED, "saved state has a row that is left out: it has no place in a top");
    dz_row_copy(type->row, entry + type->order->words, row);
    uint32_t number = dz_top_group_of(base, top, type, per);
    dz_top_group *group = dz_top_group_at(top, type, number);
    dz_top_change(base, group, type, entry,
                  dz_zset_add(base, &top->rows.rows, type->row, row, dz_row_hash(type->row, row), weight));
    group->matters = DZ_TOP_UNKNOWN;
    if (group->entries.count == 0) dz_top_remove(base, top, type, number);
}

/* Whether the next step has something to say of what was loaded. */
static inline bool dz_top_settle(dz_base *base, dz_top *top, const dz_top_type *type)
{
    if (!type->part) return false;
    dz_top_part_differ(base, top, type);
    top->unsettled = top->changes.count != 0;
    dz_delta_clear(&top->changes);
    return top->unsettled;
}

/* Gives the memory back. */
static inline void dz_top_free(dz_base *base, dz_top *top, const dz_top_type *type)
{
    uint32_t words = dz_top_words(type);
    for (uint32_t number = 0; number < top->groups.count; number++)
        dz_ordered_free(base, &dz_top_group_at(top, type, number)->entries, words);
    dz_table_free(base, &top->groups, type->per, dz_top_extra(type));
    dz_kept_free(base, &top->rows, type->row, DZ_ZSET_EXTRA);
    dz_kept_free(base, &top->shown, type->shown, DZ_ZSET_EXTRA);
    dz_free_memory(base, top->items, top->item_capacity * ((size_t)words + 1) * 8);
    dz_free_memory(base, top->touched, top->touched_capacity * sizeof *top->touched);
    dz_delta_free(base, &top->changes, type->shown);
}

#endif
