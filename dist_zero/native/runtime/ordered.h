/* Distinct entries in order, for minimum, maximum and the first of a group: a B+tree whose nodes grow with what is in them.

An entry is a fixed number of words; `compare` says how two stand (below 0, 0, above 0), and may look at some of the words
only: what it does not look at is payload, which the owner may write through the pointers it gets. Everything is a generic
function to which the number of words and `compare` are constants, so that the compiler makes special code.

A leaf has entries; an inner node has items of a child's last entry and a pointer to the child. The copy of the last entry
is always exact, since texts of entries that are gone may be gone too. Nodes begin small and grow by doubling, so that a
group of four costs what it needs; beyond `DZ_ORDERED_FULL` items they are split. An ascending or descending series leaves
full nodes behind it. On the way down, a full node is split before it is entered, so that whatever allocation fails, the
tree is as it was. The index holds no texts: that is the business of whoever owns the entries.

Pointers to entries, and cursors, are good until the next insertion or removal. */

#ifndef DZ_ORDERED_H
#define DZ_ORDERED_H

#include "core.h"

#define DZ_ORDERED_FULL 64u
#define DZ_ORDERED_FEW 16u    /* a node of fewer items looks for a neighbour to be one with */
#define DZ_ORDERED_MERGED 48u /* they may be one if they have no more than this */
#define DZ_ORDERED_DEPTH 16

/* `level`: 0 of leaves. The words of item i begin at items + i * stride. */
typedef struct dz_ordered_node {
    uint16_t count, capacity;
    uint32_t level;
    uint64_t items[];
} dz_ordered_node;

/* All zero is an empty one. */
typedef struct {
    dz_ordered_node *root;
    uint64_t count;
} dz_ordered;

typedef int dz_compare(const uint64_t *left, const uint64_t *right);

/* A place in the tree: the way down to it. */
typedef struct {
    const dz_ordered_node *nodes[DZ_ORDERED_DEPTH];
    uint32_t places[DZ_ORDERED_DEPTH];
    int depth; /* of the leaf; below 0: nowhere */
} dz_cursor;

/* ---- nodes ---------------------------------------------------------------------------------------------------- */

/* How many words an item of a node has. */
static inline uint32_t dz_ordered_stride(const dz_ordered_node *node, uint32_t words)
{
    return node->level ? words + 1 : words;
}

/* Item number `at` of a node. */
static inline uint64_t *dz_ordered_item(const dz_ordered_node *node, uint32_t words, uint32_t at)
{
    return (uint64_t *)node->items + (size_t)at * dz_ordered_stride(node, words);
}

/* The child in item number `at` of an inner node. */
static inline dz_ordered_node *dz_ordered_child(const dz_ordered_node *node, uint32_t words, uint32_t at)
{
    return (dz_ordered_node *)(uintptr_t)dz_ordered_item(node, words, at)[words];
}

/* Makes item number `at` of an inner node that of this child. */
static inline void dz_ordered_set_child(dz_ordered_node *node, uint32_t words, uint32_t at, const dz_ordered_node *child)
{
    uint64_t *item = dz_ordered_item(node, words, at);
    memcpy(item, dz_ordered_item(child, words, (uint32_t)child->count - 1), (size_t)words * 8);
    item[words] = (uint64_t)(uintptr_t)child;
}

/* The memory of a node. */
static inline size_t dz_ordered_size(uint32_t level, uint32_t words, uint32_t capacity)
{
    return sizeof(dz_ordered_node) + (size_t)capacity * (level ? words + 1 : words) * 8;
}

/* A new node without items. */
static inline dz_ordered_node *dz_ordered_make(dz_base *base, uint32_t level, uint32_t words, uint32_t capacity)
{
    dz_ordered_node *node = dz_alloc(base, dz_ordered_size(level, words, capacity));
    node->count = 0;
    node->capacity = (uint16_t)capacity;
    node->level = level;
    return node;
}

/* Gives back the memory of one node. */
static inline void dz_ordered_drop(dz_base *base, dz_ordered_node *node, uint32_t words)
{
    dz_free_memory(base, node, dz_ordered_size(node->level, words, node->capacity));
}

/* The node with room for so many items, which may be elsewhere now. */
static inline dz_ordered_node *dz_ordered_with_room(dz_base *base, dz_ordered_node *node, uint32_t words, uint32_t count)
{
    if (count <= node->capacity) return node;
    uint32_t capacity = node->capacity;
    while (capacity < count) capacity *= 2;
    node = dz_realloc(base, node, dz_ordered_size(node->level, words, node->capacity),
                      dz_ordered_size(node->level, words, capacity));
    node->capacity = (uint16_t)capacity;
    return node;
}

/* Makes a gap for an item at `at`; there is room. */
static inline uint64_t *dz_ordered_open(dz_ordered_node *node, uint32_t words, uint32_t at)
{
    uint64_t *item = dz_ordered_item(node, words, at);
    size_t stride = dz_ordered_stride(node, words);
    memmove(item + stride, item, (node->count - at) * stride * 8);
    node->count++;
    return item;
}

/* Takes out item number `at`. */
static inline void dz_ordered_close(dz_ordered_node *node, uint32_t words, uint32_t at)
{
    uint64_t *item = dz_ordered_item(node, words, at);
    size_t stride = dz_ordered_stride(node, words);
    node->count--;
    memmove(item, item + stride, (node->count - at) * stride * 8);
}

/* The first item of a node that is not below an entry; `count` if all are. */
static inline uint32_t dz_ordered_search(const dz_ordered_node *node, uint32_t words, dz_compare *compare,
                                         const uint64_t *entry)
{
    uint32_t low = 0, high = node->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (compare(dz_ordered_item(node, words, middle), entry) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- looking -------------------------------------------------------------------------------------------------- */

/* The entry that is equal to one; NULL: there is none. */
static inline uint64_t *dz_ordered_find(const dz_ordered *ordered, uint32_t words, dz_compare *compare,
                                        const uint64_t *entry)
{
    const dz_ordered_node *node = ordered->root;
    if (!node) return NULL;
    for (;;) {
        uint32_t at = dz_ordered_search(node, words, compare, entry);
        if (at == node->count) return NULL;
        uint64_t *item = dz_ordered_item(node, words, at);
        if (!node->level) return compare(item, entry) == 0 ? item : NULL;
        node = dz_ordered_child(node, words, at);
    }
}

/* The entry at the cursor; NULL: it is nowhere. */
static inline uint64_t *dz_cursor_entry(const dz_cursor *cursor, uint32_t words)
{
    if (cursor->depth < 0) return NULL;
    return dz_ordered_item(cursor->nodes[cursor->depth], words, cursor->places[cursor->depth]);
}

/* Goes from an inner node down to the first or last entry of what is below. */
static inline uint64_t *dz_cursor_descend(dz_cursor *cursor, uint32_t words, const dz_ordered_node *node, int depth,
                                          bool to_last)
{
    for (;; depth++) {
        cursor->nodes[depth] = node;
        cursor->places[depth] = to_last ? (uint32_t)node->count - 1 : 0;
        if (!node->level) break;
        node = dz_ordered_child(node, words, cursor->places[depth]);
    }
    cursor->depth = depth;
    return dz_cursor_entry(cursor, words);
}

/* Goes to the first entry, which it gives; NULL: there is none. */
static inline uint64_t *dz_cursor_first(dz_cursor *cursor, const dz_ordered *ordered, uint32_t words)
{
    cursor->depth = -1;
    return ordered->root ? dz_cursor_descend(cursor, words, ordered->root, 0, false) : NULL;
}

/* Goes to the last entry, which it gives; NULL: there is none. */
static inline uint64_t *dz_cursor_last(dz_cursor *cursor, const dz_ordered *ordered, uint32_t words)
{
    cursor->depth = -1;
    return ordered->root ? dz_cursor_descend(cursor, words, ordered->root, 0, true) : NULL;
}

/* Goes to the first entry that is not below one, which it gives; NULL: all are below. */
static inline uint64_t *dz_cursor_seek(dz_cursor *cursor, const dz_ordered *ordered, uint32_t words, dz_compare *compare,
                                       const uint64_t *entry)
{
    cursor->depth = -1;
    const dz_ordered_node *node = ordered->root;
    if (!node) return NULL;
    for (int depth = 0;; depth++) {
        uint32_t at = dz_ordered_search(node, words, compare, entry);
        if (at == node->count) return NULL; /* only of the root: below it, the last of each child is known */
        cursor->nodes[depth] = node;
        cursor->places[depth] = at;
        if (!node->level) {
            cursor->depth = depth;
            return dz_cursor_entry(cursor, words);
        }
        node = dz_ordered_child(node, words, at);
    }
}

/* Goes to the next entry, which it gives; NULL: that was the last. */
static inline uint64_t *dz_cursor_next(dz_cursor *cursor, uint32_t words)
{
    for (int depth = cursor->depth; depth >= 0; depth--) {
        const dz_ordered_node *node = cursor->nodes[depth];
        if (++cursor->places[depth] == node->count) continue;
        if (!node->level) return dz_cursor_entry(cursor, words);
        return dz_cursor_descend(cursor, words, dz_ordered_child(node, words, cursor->places[depth]), depth + 1, false);
    }
    cursor->depth = -1;
    return NULL;
}

/* Goes to the entry before, which it gives; NULL: that was the first. */
static inline uint64_t *dz_cursor_previous(dz_cursor *cursor, uint32_t words)
{
    for (int depth = cursor->depth; depth >= 0; depth--) {
        const dz_ordered_node *node = cursor->nodes[depth];
        if (cursor->places[depth]-- == 0) continue;
        if (!node->level) return dz_cursor_entry(cursor, words);
        return dz_cursor_descend(cursor, words, dz_ordered_child(node, words, cursor->places[depth]), depth + 1, true);
    }
    cursor->depth = -1;
    return NULL;
}

/* The first entry; NULL: there is none. */
static inline uint64_t *dz_ordered_first(const dz_ordered *ordered, uint32_t words)
{
    const dz_ordered_node *node = ordered->root;
    if (!node) return NULL;
    while (node->level) node = dz_ordered_child(node, words, 0);
    return dz_ordered_item(node, words, 0);
}

/* The last entry; NULL: there is none. */
static inline uint64_t *dz_ordered_last(const dz_ordered *ordered, uint32_t words)
{
    const dz_ordered_node *node = ordered->root;
    if (!node) return NULL;
    while (node->level) node = dz_ordered_child(node, words, (uint32_t)node->count - 1);
    return dz_ordered_item(node, words, (uint32_t)node->count - 1);
}

/* ---- inserting ------------------------------------------------------------------------------------------------ */

/* Splits the full child number `at` of a node that has room for one more: the first `left` items stay in it. */
static inline void dz_ordered_split(dz_base *base, dz_ordered_node *node, uint32_t words, uint32_t at, uint32_t left)
{
    dz_ordered_node *child = dz_ordered_child(node, words, at);
    uint32_t right = child->count - left;
    dz_ordered_node *fresh = dz_ordered_make(base, child->level, words, (uint32_t)dz_power_of_two(right < 4 ? 4 : right));
    memcpy(fresh->items, dz_ordered_item(child, words, left), (size_t)right * dz_ordered_stride(child, words) * 8);
    fresh->count = (uint16_t)right;
    child->count = (uint16_t)left;
    dz_ordered_open(node, words, at + 1);
    dz_ordered_set_child(node, words, at, child);
    dz_ordered_set_child(node, words, at + 1, fresh);
}

/* How many items of a full node stay in it: half of them, but all but one where a series goes on behind or before. */
static inline uint32_t dz_ordered_stay(const dz_ordered_node *node, bool behind_all, bool before_all)
{
    return behind_all ? node->count - 1u : before_all ? 1u : node->count / 2u;
}

/* Puts a root above a full one, so that it can be split. */
static inline void dz_ordered_raise_root(dz_base *base, dz_ordered *ordered, uint32_t words)
{
    if (ordered->root->level + 1 == DZ_ORDERED_DEPTH) dz_raise(base, DZ_NO_MEMORY, "more entries than can be ordered");
    dz_ordered_node *root = dz_ordered_make(base, ordered->root->level + 1, words, 4);
    root->count = 1;
    dz_ordered_set_child(root, words, 0, ordered->root);
    ordered->root = root;
}

/* The entry that is equal to one; if there was none, it is put in, as a copy. */
static inline uint64_t *dz_ordered_insert(dz_base *base, dz_ordered *ordered, uint32_t words, dz_compare *compare,
                                          const uint64_t *entry, bool *is_new)
{
    if (!ordered->root) ordered->root = dz_ordered_make(base, 0, words, 4);
    if (ordered->root->count == DZ_ORDERED_FULL) dz_ordered_raise_root(base, ordered, words);
    dz_ordered_node *node = ordered->root, *parent = NULL;
    uint32_t parent_at = 0;
    bool behind_all = true, before_all = true;
    while (node->level) {
        uint32_t at = dz_ordered_search(node, words, compare, entry);
        bool behind = at == node->count;
        if (behind) at--;
        behind_all &= behind;
        before_all &= at == 0;
        dz_ordered_node *child = dz_ordered_child(node, words, at);
        if (child->count == DZ_ORDERED_FULL) {
            node = dz_ordered_with_room(base, node, words, node->count + 1u);
            if (parent)
                dz_ordered_set_child(parent, words, parent_at, node);
            else
                ordered->root = node;
            bool before = before_all && compare(entry, dz_ordered_item(child, words, 0)) < 0;
            dz_ordered_split(base, node, words, at, dz_ordered_stay(child, behind_all, before));
            if (compare(dz_ordered_item(node, words, at), entry) < 0) at++;
            child = dz_ordered_child(node, words, at);
        }
        if (behind) memcpy(dz_ordered_item(node, words, at), entry, (size_t)words * 8);
        parent = node;
        parent_at = at;
        node = child;
    }
    uint32_t at = dz_ordered_search(node, words, compare, entry);
    *is_new = at == node->count || compare(dz_ordered_item(node, words, at), entry) != 0;
    if (!*is_new) return dz_ordered_item(node, words, at);
    node = dz_ordered_with_room(base, node, words, node->count + 1u);
    if (parent)
        dz_ordered_item(parent, words, parent_at)[words] = (uint64_t)(uintptr_t)node;
    else
        ordered->root = node;
    uint64_t *item = dz_ordered_open(node, words, at);
    memcpy(item, entry, (size_t)words * 8);
    ordered->count++;
    return item;
}

/* ---- removing ------------------------------------------------------------------------------------------------- */

/* Makes child number `at` and the one behind it one, if they have few items. It needs memory perhaps; without, they stay
   two. */
static inline void dz_ordered_merge(dz_base *base, dz_ordered_node *node, uint32_t words, uint32_t at)
{
    dz_ordered_node *left = dz_ordered_child(node, words, at), *right = dz_ordered_child(node, words, at + 1);
    uint32_t count = (uint32_t)left->count + right->count;
    if (count > DZ_ORDERED_MERGED) return;
    if (count > left->capacity) {
        uint32_t capacity = (uint32_t)dz_power_of_two(count);
        size_t size = dz_ordered_size(left->level, words, capacity);
        dz_ordered_node *larger = realloc(left, size);
        if (!larger) return;
        base->bytes += size - dz_ordered_size(larger->level, words, larger->capacity);
        left = larger;
        left->capacity = (uint16_t)capacity;
    }
    memcpy(dz_ordered_item(left, words, left->count), right->items,
           (size_t)right->count * dz_ordered_stride(right, words) * 8);
    left->count = (uint16_t)count;
    dz_ordered_drop(base, right, words);
    dz_ordered_close(node, words, at + 1);
    dz_ordered_set_child(node, words, at, left);
}

/* Removes the entry that is equal to one. `removed`, unless NULL, gets all its words. False: there was none. */
static inline bool dz_ordered_remove(dz_base *base, dz_ordered *ordered, uint32_t words, dz_compare *compare,
                                     const uint64_t *entry, uint64_t *removed)
{
    dz_ordered_node *path[DZ_ORDERED_DEPTH], *node = ordered->root;
    uint32_t places[DZ_ORDERED_DEPTH];
    int depth = 0;
    if (!node) return false;
    for (;; depth++) {
        uint32_t at = dz_ordered_search(node, words, compare, entry);
        if (at == node->count) return false;
        path[depth] = node;
        places[depth] = at;
        if (!node->level) break;
        node = dz_ordered_child(node, words, at);
    }
    uint64_t *item = dz_ordered_item(node, words, places[depth]);
    if (compare(item, entry) != 0) return false;
    if (removed) memcpy(removed, item, (size_t)words * 8);
    dz_ordered_close(node, words, places[depth]);
    ordered->count--;
    while (depth > 0) {
        dz_ordered_node *child = path[depth--], *parent = path[depth];
        uint32_t at = places[depth];
        if (child->count == 0) {
            dz_ordered_drop(base, child, words);
            dz_ordered_close(parent, words, at);
            continue;
        }
        dz_ordered_set_child(parent, words, at, child);
        if (child->count >= DZ_ORDERED_FEW) continue;
        if (at + 1 < parent->count) dz_ordered_merge(base, parent, words, at);
        if (at > 0) dz_ordered_merge(base, parent, words, at - 1);
    }
    node = ordered->root;
    while (node->level && node->count == 1) {
        ordered->root = dz_ordered_child(node, words, 0);
        dz_ordered_drop(base, node, words);
        node = ordered->root;
    }
    if (node->count == 0) {
        dz_ordered_drop(base, node, words);
        ordered->root = NULL;
    }
    return true;
}

/* Gives the memory back. */
static inline void dz_ordered_free(dz_base *base, dz_ordered *ordered, uint32_t words)
{
    dz_ordered_node *path[DZ_ORDERED_DEPTH];
    int depth = 0;
    if (ordered->root) path[0] = ordered->root;
    else return;
    while (depth >= 0) {
        dz_ordered_node *node = path[depth];
        if (node->level && node->count)
            path[++depth] = dz_ordered_child(node, words, (uint32_t)--node->count);
        else {
            dz_ordered_drop(base, node, words);
            depth--;
        }
    }
    *ordered = (dz_ordered){0};
}

#endif
