/* The first rows of each group, kept right while rows come and go; `reference/top.py` is the definition.

Each group has its rows in order, a row of weight w taking w places: not the rows themselves, which are in a table, but
what they sort by and the hash by which they are found there. A change behind the last row that is shown costs the
logarithm of the group's size. The first change in a step that may alter what is shown notes what is shown at that time,
which is the beginning of the group; when all changes are in, the old beginning and the new one, both in order, are gone
through side by side, and what differs is emitted.

A top that sees a part of its one group keeps what it has shown as a table, since that is state of its own: after a load
it may be something else than the beginning of the group, until the next step. */

#ifndef DZ_TOP_H
#define DZ_TOP_H

#include "core.h"
#include "ordered.h"
#include "table.h"

/* A top's constants. An entry of a group is what a row sorts by (`order`), whose last column is the row's hash, and the
   row's weight; `compare` compares all of the order. `shown` is the row, and the rank behind it. `place` says in which
   group a row is and what it sorts by, but for the hash, or why an expression fails. */
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

/* The payload of a group; `step`: the number of the last step in which it was touched, and `touched` its place among the
   groups that were. */
typedef struct {
    dz_ordered entries;
    uint64_t matters;
    uint64_t step, touched;
    uint64_t last[];
} dz_top_group;

/* A group that is touched: its number, and which items are what was shown of it. */
typedef struct {
    uint64_t from;
    uint32_t group, count;
} dz_top_touched;

/* All zero is a top of nothing. `items`: entries that are shown, for use within a step. */
typedef struct {
    dz_kept rows, shown;
    dz_table groups;
    uint64_t step;
    bool unsettled;
    uint64_t *items;
    uint64_t item_count, item_capacity;
    dz_top_touched *touched;
    uint32_t touched_count, touched_capacity;
    dz_table fresh; /* within a step of a part: what is to be shown, and how that differs from what is */
    dz_delta changes;
} dz_top;

/* ---- groups --------------------------------------------------------------------------------------------------- */

/* How many words an entry has. */
static inline uint32_t dz_top_words(const dz_top_type *type)
{
    return type->order->words + 1;
}

/* What stands in an item behind the order: the places that the row takes, those in front of it, and, if the row is gone,
   where it still is. */
enum { DZ_ITEM_PLACES, DZ_ITEM_TAKEN, DZ_ITEM_ROW, DZ_ITEM_EXTRA };

/* How many words an item has. */
static inline size_t dz_item_words(const dz_top_type *type)
{
    return (size_t)type->order->words + DZ_ITEM_EXTRA;
}

/* How many words a group's payload has. */
static inline uint32_t dz_top_extra(const dz_top_type *type)
{
    return (uint32_t)(sizeof(dz_top_group) / 8) + type->order->words;
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

/* What a row sorts by, with its hash, to `entry`, and its group, to `per`; or why it has no place. */
static inline int dz_top_place(dz_base *base, const dz_top_type *type, const uint64_t *row, uint64_t *per, uint64_t *entry)
{
    int failure = type->place(base, row, per, entry);
    entry[type->order->words - 1] = dz_row_hash(type->row, row);
    return failure;
}

/* The row that has this place in its group; it is there. */
static inline const uint64_t *dz_top_row(dz_base *base, const dz_top *top, const dz_top_type *type, const uint64_t *key)
{
    const dz_table *rows = &top->rows.rows;
    uint64_t hash = key[type->order->words - 1], per[type->per->words + 1], order[type->order->words];
    uint32_t mark = (uint32_t)(hash >> 32), mask = rows->mask;
    for (uint32_t place = mark & mask; rows->slots[place]; place = (place + 1) & mask) {
        if ((uint32_t)(rows->slots[place] >> 32) != mark) continue;
        const uint64_t *row = dz_table_entry(rows, type->row, DZ_ZSET_EXTRA, (uint32_t)rows->slots[place] - 1);
        if (dz_top_place(base, type, row, per, order) == 0 && type->compare(order, key) == 0) return row;
    }
    dz_raise(base, DZ_BUG, "a top has lost a row");
}

/* Notes an entry that is shown, with the places that it takes and those in front of it. */
static inline void dz_top_note(dz_base *base, dz_top *top, const dz_top_type *type, const uint64_t *entry, int64_t places,
                               int64_t taken)
{
    uint32_t order = type->order->words;
    size_t size = dz_item_words(type) * 8;
    if (top->item_count == top->item_capacity) {
        uint64_t capacity = top->item_capacity ? top->item_capacity * 2 : 16;
        top->items = dz_realloc(base, top->items, top->item_capacity * size, capacity * size);
        top->item_capacity = capacity;
    }
    uint64_t *item = top->items + top->item_count++ * dz_item_words(type);
    memcpy(item, entry, (size_t)order * 8);
    item[order + DZ_ITEM_PLACES] = (uint64_t)places;
    item[order + DZ_ITEM_TAKEN] = (uint64_t)taken;
    item[order + DZ_ITEM_ROW] = 0;
}

/* Says of an item where its row is, which goes: that is in the step's input. */
static inline void dz_top_note_gone(dz_top *top, const dz_top_type *type, const dz_top_group *group, const uint64_t *entry,
                                    const uint64_t *row)
{
    size_t stride = dz_item_words(type);
    uint64_t from = top->touched[group->touched].from, to = from + top->touched[group->touched].count, end = to;
    while (from < to) {
        uint64_t middle = (from + to) / 2;
        if (type->compare(top->items + middle * stride, entry) < 0)
            from = middle + 1;
        else
            to = middle;
    }
    uint64_t *item = top->items + from * stride;
    if (from < end && type->compare(item, entry) == 0) item[type->order->words + DZ_ITEM_ROW] = (uint64_t)(uintptr_t)row;
}

/* The row of an item. */
static inline const uint64_t *dz_top_item_row(dz_base *base, const dz_top *top, const dz_top_type *type,
                                              const uint64_t *item)
{
    uint64_t row = item[type->order->words + DZ_ITEM_ROW];
    return row ? (const uint64_t *)(uintptr_t)row : dz_top_row(base, top, type, item);
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
            memcpy(group->last, entry, (size_t)type->order->words * 8);
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
static inline void dz_top_tell(dz_base *base, const dz_top *top, const dz_top_type *type, const uint64_t *item,
                               const uint64_t *but, int64_t sign, void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    uint32_t order = type->order->words;
    int64_t places = (int64_t)item[order + DZ_ITEM_PLACES], taken = (int64_t)item[order + DZ_ITEM_TAKEN];
    int64_t others = but ? (int64_t)but[order + DZ_ITEM_PLACES] : 0, from = but ? (int64_t)but[order + DZ_ITEM_TAKEN] : 0;
    if (but && places == others && (!type->rank || taken == from)) return;
    const uint64_t *row = dz_top_item_row(base, top, type, item);
    if (!type->rank) {
        /* Of what is in both, only the second pass says the difference. */
        if (!but || sign > 0) emit(base, row, sign * places - others);
        return;
    }
    uint64_t ranked[type->shown->words + 1];
    for (int64_t before = taken; before < taken + places; before++) {
        if (but && before >= from && before < from + others) continue;
        dz_row_append(type->row, row, type->shown, (uint64_t)(before + 1), ranked);
        emit(base, ranked, sign);
    }
}

/* Goes through the old beginning of a group and its new one side by side; emits what is in the old one only (`gone`), or
   what is in the new one only. */
static inline void dz_top_differ(dz_base *base, const dz_top *top, const dz_top_type *type, const uint64_t *old,
                                 uint64_t old_count, const uint64_t *fresh, uint64_t fresh_count, bool gone,
                                 void (*emit)(dz_base *, const uint64_t *, int64_t))
{
    size_t stride = dz_item_words(type);
    const uint64_t *old_end = old + old_count * stride, *fresh_end = fresh + fresh_count * stride;
    while (old < old_end || fresh < fresh_end) {
        int order = old == old_end ? 1 : fresh == fresh_end ? -1 : type->compare(old, fresh);
        if (gone && order <= 0) dz_top_tell(base, top, type, old, order ? NULL : fresh, -1, emit);
        if (!gone && order >= 0) dz_top_tell(base, top, type, fresh, order ? NULL : old, 1, emit);
        if (order <= 0) old += stride;
        if (order >= 0) fresh += stride;
    }
}

/* The difference between what a part has shown and the beginning of its group, to `changes`. */
static inline void dz_top_part_differ(dz_base *base, dz_top *top, const dz_top_type *type)
{
    uint32_t order = type->order->words, extra = DZ_ZSET_EXTRA;
    const dz_shape *shown = type->shown;
    uint64_t ranked[shown->words + 1];
    dz_table *fresh = &top->fresh;
    dz_table_clear(base, fresh, shown, extra);
    top->item_count = 0;
    if (top->groups.count) dz_top_look(base, top, type, 0, true); /* the only one */
    for (uint64_t at = 0; at < top->item_count; at++) {
        const uint64_t *item = top->items + at * dz_item_words(type), *row = dz_top_row(base, top, type, item);
        int64_t places = (int64_t)item[order + DZ_ITEM_PLACES], taken = (int64_t)item[order + DZ_ITEM_TAKEN];
        if (!type->rank) dz_zset_add(base, fresh, shown, row, dz_row_hash(shown, row), places);
        for (int64_t before = taken; type->rank && before < taken + places; before++) {
            dz_row_append(type->row, row, shown, (uint64_t)(before + 1), ranked);
            dz_zset_add(base, fresh, shown, ranked, dz_row_hash(shown, ranked), 1);
        }
    }
    dz_delta_clear(&top->changes);
    for (uint32_t at = 0; at < top->shown.rows.count; at++) {
        const uint64_t *entry = dz_table_entry(&top->shown.rows, shown, extra, at);
        if (!dz_table_find(fresh, shown, extra, entry, dz_row_hash(shown, entry)))
            dz_delta_add(base, &top->changes, shown, entry, -(int64_t)entry[shown->words + DZ_ZSET_WEIGHT]);
    }
    for (uint32_t at = 0; at < fresh->count; at++) {
        const uint64_t *entry = dz_table_entry(fresh, shown, extra, at);
        int64_t weight = (int64_t)entry[shown->words + DZ_ZSET_WEIGHT];
        int64_t change = weight - dz_kept_weight(&top->shown, shown, entry);
        if (change) dz_delta_add(base, &top->changes, shown, entry, change);
    }
    dz_table_clear(base, fresh, shown, extra);
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
    dz_top_group *group = dz_top_group_at(top, type, number);
    group->step = top->step;
    group->touched = top->touched_count;
    top->touched[top->touched_count++] = (dz_top_touched){before, number, (uint32_t)(top->item_count - before)};
}

/* Takes in one change of a row. */
static inline void dz_top_take_change(dz_base *base, dz_top *top, const dz_top_type *type, const uint64_t *row,
                                      int64_t weight, void (*fail)(dz_base *, const uint64_t *, int64_t))
{
    uint64_t per[type->per->words + 1], entry[dz_top_words(type)];
    if (dz_top_place(base, type, row, per, entry)) {
        fail(base, row, weight);
        return;
    }
    uint32_t number = dz_top_group_of(base, top, type, per);
    dz_top_group *group = dz_top_group_at(top, type, number);
    if (group->step != top->step) {
        if (group->matters == DZ_TOP_UNKNOWN) dz_top_look(base, top, type, number, false);
        if (group->matters == DZ_TOP_ALL || type->compare(group->last, entry) >= 0)
            dz_top_touch(base, top, type, number);
    }
    dz_weights weights = dz_kept_add(base, &top->rows, type->row, row, entry[type->order->words - 1], weight);
    if (weights.after == 0 && group->step == top->step) dz_top_note_gone(top, type, group, entry, row);
    dz_top_change(base, group, type, entry, weights);
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
    size_t stride = dz_item_words(type);
    uint64_t noted = top->item_count;
    for (uint32_t at = 0; at < top->touched_count; at++) {
        dz_top_touched touched = top->touched[at];
        dz_top_look(base, top, type, touched.group, true);
        const uint64_t *old = top->items + touched.from * stride, *fresh = top->items + noted * stride;
        for (int pass = 0; pass < 2; pass++)
            dz_top_differ(base, top, type, old, touched.count, fresh, top->item_count - noted, pass == 0, emit);
        top->item_count = noted;
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
    if (type->part)
        dz_top_show_part(base, top, type, emit);
    else
        dz_top_show(base, top, type, emit);
    dz_top_clear_empty(base, top, type);
    top->item_count = 0;
    dz_delta_clear(input);
}

/* ---- saved state ---------------------------------------------------------------------------------------------- */

/* Takes in a saved row, or takes it back. */
static inline void dz_top_take(dz_base *base, dz_top *top, const dz_top_type *type, const uint64_t *row, int64_t weight)
{
    uint64_t per[type->per->words + 1], entry[dz_top_words(type)];
    if (dz_top_place(base, type, row, per, entry))
        dz_raise(base, DZ_MALFORMED, "saved state has a row that is left out: it has no place in a top");
    uint32_t number = dz_top_group_of(base, top, type, per);
    dz_top_group *group = dz_top_group_at(top, type, number);
    dz_top_change(base, group, type, entry,
                  dz_zset_add(base, &top->rows.rows, type->row, row, entry[type->order->words - 1], weight));
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
    dz_free_memory(base, top->items, top->item_capacity * dz_item_words(type) * 8);
    dz_free_memory(base, top->touched, top->touched_capacity * sizeof *top->touched);
    dz_table_free(base, &top->fresh, type->shown, DZ_ZSET_EXTRA);
    dz_delta_free(base, &top->changes, type->shown);
}

#endif
