/* Words, rows, shapes, errors, memory, texts, deltas: what all of the runtime stands on.

A row is an array of 8-byte words. If any column of its type is nullable, null words come first (bit i of word i / 64
is set where column i is null); then one word per column: bool 0 or 1; int, datetime, decimal and enum as int64; float
as IEEE bits with one NaN and no -0.0; str and bytes as a pointer to a text of the node's pool. The word of a null is
0. So two rows of a type are equal if their words are. Shapes are constants where generic functions are called, so
that the compiler makes special code of them.

Errors. Every function may fail by `dz_raise`, which jumps to where the exported function was entered (`dz_enter`);
the node is broken from then on, but everything it has can still be freed. So an allocation comes before what depends
on it.

Texts are interned: equal contents are equal pointers, given one pool. What outlives a call holds its texts; nothing
else has to, because texts that nobody holds go at the end of a call only (`dz_sweep`). */

#ifndef DZ_CORE_H
#define DZ_CORE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "columns are little-endian, and so has the machine to be"
#endif

/* The version of what the C side and the Python side have agreed upon; checked when a library is loaded. */
#define DZ_ABI 1

#define DZ_EXPORT __attribute__((visibility("default"), used))
#define DZ_LIKELY(condition) __builtin_expect(!!(condition), 1)
#define DZ_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* What `dz_raise` says went wrong: of the machine, of the data, of a message, or of ourselves. */
enum { DZ_NO_MEMORY = 1, DZ_OVERFLOW, DZ_MALFORMED, DZ_BUG };

/* The kinds of columns. */
enum { DZ_BOOL, DZ_INT, DZ_FLOAT, DZ_STR, DZ_BYTES, DZ_DATETIME, DZ_DECIMAL, DZ_ENUM };

#define DZ_NAN_BITS 0x7ff8000000000000u

/* An interned text or byte string. `refs`: how many hold it. `queued`: the pool looks at it when it sweeps. */
typedef struct dz_text {
    uint64_t hash;
    uint32_t refs;
    uint32_t length;
    uint32_t queued;
    uint32_t spare;
    char bytes[];
} dz_text;

/* All texts, by open addressing; and those that may be held by nobody. */
typedef struct {
    dz_text **slots;
    dz_text **queue;
    uint32_t mask, count;
    uint32_t queue_count, queue_capacity;
} dz_pool;

/* Row changes: `count` items, each the words of a row and an int64 weight. `negative`: a weight may be below 0. */
typedef struct {
    uint64_t *items;
    uint32_t count, capacity;
    bool negative;
} dz_delta;

#define DZ_LENT_MAX 4u

/* A delta that one function has for itself, and how many words an item of it has. */
typedef struct {
    dz_delta delta;
    uint32_t stride;
} dz_lent;

/* What each node begins with. All zero is a base of nothing. */
typedef struct dz_base {
    jmp_buf failed;
    int error;
    char message[256];
    dz_pool pool;
    uint64_t bytes;      /* of memory that is in use */
    int64_t fail_after;  /* for tests: the so many-th allocation from now on fails; 0: none */
    uint64_t *scratch;   /* of `dz_scratch` */
    uint64_t scratch_words;
    dz_lent lent[DZ_LENT_MAX];
    uint32_t lent_count;
} dz_base;

/* What a row type looks like in words. `words` counts the null words too; `text_words`: the places of str and bytes.
   */
typedef struct {
    uint32_t words;
    uint32_t columns, null_words;
    const uint8_t *kinds;
    const uint8_t *nullable;
    const uint32_t *members;
    uint32_t texts;
    const uint32_t *text_words;
} dz_shape;

/* ---- errors --------------------------------------------------------------------------------------------------- */

/* Ends the exported call that is running; the node is broken from now on. */
__attribute__((noreturn, cold, noinline)) static void dz_raise(dz_base *base, int error, const char *message)
{
    base->error = error;
    snprintf(base->message, sizeof base->message, "%s", message);
    longjmp(base->failed, 1);
}

/* At the head of each exported function that can fail: `if (dz_enter(base)) return -1;`. False at first; true when
   something in the call fails, and for a node that has failed before. It has to be a macro, as setjmp has to be
   called by the function that is returned to. */
#define dz_enter(base) ((base)->error != 0 || setjmp((base)->failed) != 0)

/* ---- memory --------------------------------------------------------------------------------------------------- */

/* Whether the allocation that is asked for now is the one that a test wants to fail. */
static inline bool dz_fails_now(dz_base *base)
{
    return DZ_UNLIKELY(base->fail_after > 0) && --base->fail_after == 0;
}

/* New memory, not cleared. */
static void *dz_alloc(dz_base *base, size_t size)
{
    void *found = dz_fails_now(base) ? NULL : malloc(size ? size : 1);
    if (!found) dz_raise(base, DZ_NO_MEMORY, "out of memory");
    base->bytes += size;
    return found;
}

/* New memory, all zero. */
static void *dz_alloc_zeroed(dz_base *base, size_t size)
{
    void *found = dz_fails_now(base) ? NULL : calloc(size ? size : 1, 1);
    if (!found) dz_raise(base, DZ_NO_MEMORY, "out of memory");
    base->bytes += size;
    return found;
}

/* The same memory with another size; what is new is not cleared. If it fails, the old memory is as it was. */
static void *dz_realloc(dz_base *base, void *memory, size_t old_size, size_t size)
{
    void *found = dz_fails_now(base) ? NULL : realloc(memory, size ? size : 1);
    if (!found) dz_raise(base, DZ_NO_MEMORY, "out of memory");
    base->bytes += size - old_size;
    return found;
}

/* Gives back memory of this size; of NULL, nothing. */
static void dz_free_memory(dz_base *base, void *memory, size_t size)
{
    if (!memory) return;
    base->bytes -= size;
    free(memory);
}

/* A zeroed array of words for use within one function; the next call takes it away. */
static uint64_t *dz_scratch(dz_base *base, uint64_t words)
{
    if (words > base->scratch_words) {
        uint64_t *fresh = dz_alloc(base, words * 8);
        dz_free_memory(base, base->scratch, base->scratch_words * 8);
        base->scratch = fresh;
        base->scratch_words = words;
    }
    memset(base->scratch, 0, words * 8);
    return base->scratch;
}

/* The smallest power of two that is not below `number`. */
static inline uint64_t dz_power_of_two(uint64_t number)
{
    return number <= 1 ? 1 : (uint64_t)1 << (64 - __builtin_clzll(number - 1));
}

/* ---- weights -------------------------------------------------------------------------------------------------- */

/* The sum of two weights. */
static inline int64_t dz_add_weights(dz_base *base, int64_t left, int64_t right)
{
    int64_t sum;
    if (DZ_UNLIKELY(__builtin_add_overflow(left, right, &sum))) dz_raise(base, DZ_OVERFLOW, "a weight beyond 64 bits");
    return sum;
}

/* The product of two weights. */
static inline int64_t dz_multiply_weights(dz_base *base, int64_t left, int64_t right)
{
    int64_t product;
    if (DZ_UNLIKELY(__builtin_mul_overflow(left, right, &product)))
        dz_raise(base, DZ_OVERFLOW, "a weight beyond 64 bits");
    return product;
}

/* ---- hashes within the process -------------------------------------------------------------------------------- */

/* Two words made one: the halves of their product, put together. */
static inline uint64_t dz_mix(uint64_t left, uint64_t right)
{
    unsigned __int128 product = (unsigned __int128)left * right;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

#define DZ_HASH_SEED 0x9e3779b97f4a7c15u
#define DZ_HASH_FACTOR 0xd1342543de82ef95u

/* The hash of one word behind others whose hash is `before`. */
static inline uint64_t dz_hash_word(uint64_t before, uint64_t word)
{
    return dz_mix(before ^ word, DZ_HASH_FACTOR) + DZ_HASH_SEED;
}

/* Eight bytes at any address. */
static inline uint64_t dz_load_word(const void *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, 8);
    return word;
}

/* The hash of bytes, the same in every process; not the one of stored formats, which is in xxh64.h. */
static inline uint64_t dz_hash_bytes(const char *bytes, size_t length)
{
    uint64_t hash = dz_hash_word(DZ_HASH_SEED, length);
    size_t rest = length;
    for (; rest > 8; rest -= 8, bytes += 8) hash = dz_hash_word(hash, dz_load_word(bytes));
    uint64_t last = 0;
    memcpy(&last, bytes, rest);
    return dz_hash_word(hash, last);
}

/* ---- texts ---------------------------------------------------------------------------------------------------- */

/* The memory that a text takes. */
static inline size_t dz_text_size(uint32_t length)
{
    return sizeof(dz_text) + (size_t)length + 1;
}

/* Puts a text into the first free slot from its hash on. */
static inline void dz_pool_place(dz_text **slots, uint32_t mask, dz_text *text)
{
    uint32_t place = (uint32_t)text->hash & mask;
    while (slots[place]) place = (place + 1) & mask;
    slots[place] = text;
}

/* Makes room for one more text, and for it in the queue. */
static void dz_pool_grow(dz_base *base)
{
    dz_pool *pool = &base->pool;
    if (pool->queue_count == pool->queue_capacity) {
        uint32_t capacity = pool->queue_capacity ? pool->queue_capacity * 2 : 64;
        pool->queue = dz_realloc(base, pool->queue, pool->queue_capacity * sizeof *pool->queue,
                                 capacity * sizeof *pool->queue);
        pool->queue_capacity = capacity;
    }
    uint64_t old_size = pool->slots ? (uint64_t)pool->mask + 1 : 0;
    if (((uint64_t)pool->count + 1) * 2 <= old_size) return;
    uint64_t size = old_size ? old_size * 2 : 64;
    if (size > (uint64_t)1 << 32) dz_raise(base, DZ_NO_MEMORY, "more texts than a node can hold");
    dz_text **slots = dz_alloc_zeroed(base, size * sizeof *slots);
    for (uint64_t place = 0; place < old_size; place++)
        if (pool->slots[place]) dz_pool_place(slots, (uint32_t)(size - 1), pool->slots[place]);
    dz_free_memory(base, pool->slots, old_size * sizeof *slots);
    pool->slots = slots;
    pool->mask = (uint32_t)(size - 1);
}

/* The text of these bytes, which nobody holds yet if it is new. */
static dz_text *dz_intern(dz_base *base, const char *bytes, size_t length)
{
    dz_pool *pool = &base->pool;
    uint64_t hash = dz_hash_bytes(bytes, length);
    if (DZ_LIKELY(pool->slots != NULL))
        for (uint32_t place = (uint32_t)hash & pool->mask; pool->slots[place]; place = (place + 1) & pool->mask) {
            dz_text *found = pool->slots[place];
            if (found->hash == hash && found->length == length && memcmp(found->bytes, bytes, length) == 0)
                return found;
        }
    if (length > UINT32_MAX) dz_raise(base, DZ_MALFORMED, "a text of more than 4 GiB");
    dz_pool_grow(base);
    dz_text *text = dz_alloc(base, dz_text_size((uint32_t)length));
    *text = (dz_text){.hash = hash, .length = (uint32_t)length, .queued = 1};
    if (length) memcpy(text->bytes, bytes, length);
    text->bytes[length] = 0;
    dz_pool_place(pool->slots, pool->mask, text);
    pool->count++;
    pool->queue[pool->queue_count++] = text;
    return text;
}

/* Holds a text: it stays until it is dropped as often. */
static inline void dz_hold(dz_text *text)
{
    text->refs++;
}

/* Has the pool look at a text that nobody holds any more, when it sweeps. Nothing fails here, since whoever gives
   something back must be able to: without memory for the queue, the text stays until the node goes. */
static void dz_queue_text(dz_base *base, dz_text *text)
{
    dz_pool *pool = &base->pool;
    if (pool->queue_count == pool->queue_capacity) {
        uint32_t capacity = pool->queue_capacity * 2;
        dz_text **queue = realloc(pool->queue, capacity * sizeof *queue);
        if (!queue) return;
        base->bytes += (capacity - pool->queue_capacity) * sizeof *queue;
        pool->queue = queue;
        pool->queue_capacity = capacity;
    }
    text->queued = 1;
    pool->queue[pool->queue_count++] = text;
}

/* Takes back a hold. The text is still there until the end of the call. */
static inline void dz_drop(dz_base *base, dz_text *text)
{
    if (--text->refs == 0 && !text->queued) dz_queue_text(base, text);
}

/* Takes a text out of the slots; those behind it move up. */
static void dz_pool_remove(dz_pool *pool, const dz_text *text)
{
    uint32_t mask = pool->mask, place = (uint32_t)text->hash & mask;
    while (pool->slots[place] != text) place = (place + 1) & mask;
    for (uint32_t next = (place + 1) & mask; pool->slots[next]; next = (next + 1) & mask) {
        uint32_t home = (uint32_t)pool->slots[next]->hash & mask;
        if (((next - home) & mask) >= ((next - place) & mask)) {
            pool->slots[place] = pool->slots[next];
            place = next;
        }
    }
    pool->slots[place] = NULL;
    pool->count--;
}

/* Frees the texts that nobody holds. Only at the end of an exported call: rows of a running one hold nothing. */
static void dz_sweep(dz_base *base)
{
    dz_pool *pool = &base->pool;
    for (uint32_t at = 0; at < pool->queue_count; at++) {
        dz_text *text = pool->queue[at];
        text->queued = 0;
        if (text->refs) continue;
        dz_pool_remove(pool, text);
        dz_free_memory(base, text, dz_text_size(text->length));
    }
    pool->queue_count = 0;
}

/* Frees the pool with all its texts, held or not, scratch memory and what is lent: the last that is done with a node. */
static void dz_base_clear(dz_base *base)
{
    dz_pool *pool = &base->pool;
    uint64_t size = pool->slots ? (uint64_t)pool->mask + 1 : 0;
    for (uint64_t place = 0; place < size; place++)
        if (pool->slots[place]) dz_free_memory(base, pool->slots[place], dz_text_size(pool->slots[place]->length));
    dz_free_memory(base, pool->slots, size * sizeof *pool->slots);
    dz_free_memory(base, pool->queue, pool->queue_capacity * sizeof *pool->queue);
    dz_free_memory(base, base->scratch, base->scratch_words * 8);
    while (base->lent_count) {
        const dz_lent *lent = &base->lent[--base->lent_count];
        dz_free_memory(base, lent->delta.items, (size_t)lent->delta.capacity * lent->stride * sizeof(uint64_t));
    }
    *pool = (dz_pool){0};
    base->scratch = NULL;
    base->scratch_words = 0;
}

/* ---- rows ----------------------------------------------------------------------------------------------------- */

/* The text in a word. */
static inline dz_text *dz_text_of(uint64_t word)
{
    return (dz_text *)(uintptr_t)word;
}

/* The word of a text. */
static inline uint64_t dz_word_of(const dz_text *text)
{
    return (uint64_t)(uintptr_t)text;
}

/* Whether a column of a row is null. */
static inline bool dz_is_null(const dz_shape *shape, const uint64_t *row, uint32_t column)
{
    return shape->null_words != 0 && (row[column / 64] >> (column % 64) & 1) != 0;
}

/* Whether any column of a row is null. */
static inline bool dz_any_null(const dz_shape *shape, const uint64_t *row)
{
    uint64_t nulls = 0;
    for (uint32_t word = 0; word < shape->null_words; word++) nulls |= row[word];
    return nulls != 0;
}

/* The hash of a row within the process, the same in every process: of texts, that of their content counts. */
static inline uint64_t dz_row_hash(const dz_shape *shape, const uint64_t *row)
{
    uint64_t hash = DZ_HASH_SEED;
    if (shape->texts == 0) {
        for (uint32_t word = 0; word < shape->words; word++) hash = dz_hash_word(hash, row[word]);
        return hash;
    }
    for (uint32_t word = 0; word < shape->null_words; word++) hash = dz_hash_word(hash, row[word]);
    for (uint32_t column = 0; column < shape->columns; column++) {
        uint64_t word = row[shape->null_words + column];
        bool is_text = shape->kinds[column] == DZ_STR || shape->kinds[column] == DZ_BYTES;
        hash = dz_hash_word(hash, is_text && word ? dz_text_of(word)->hash : word);
    }
    return hash;
}

/* Whether two rows are the same. */
static inline bool dz_row_equal(const dz_shape *shape, const uint64_t *left, const uint64_t *right)
{
    for (uint32_t word = 0; word < shape->words; word++)
        if (left[word] != right[word]) return false;
    return true;
}

/* Copies a row. */
static inline void dz_row_copy(const dz_shape *shape, uint64_t *target, const uint64_t *row)
{
    for (uint32_t word = 0; word < shape->words; word++) target[word] = row[word];
}

/* Holds the texts of a row. */
static inline void dz_row_hold(dz_base *base, const dz_shape *shape, const uint64_t *row)
{
    (void)base;
    for (uint32_t text = 0; text < shape->texts; text++)
        if (row[shape->text_words[text]]) dz_hold(dz_text_of(row[shape->text_words[text]]));
}

/* Drops the texts of a row. */
static inline void dz_row_drop(dz_base *base, const dz_shape *shape, const uint64_t *row)
{
    for (uint32_t text = 0; text < shape->texts; text++)
        if (row[shape->text_words[text]]) dz_drop(base, dz_text_of(row[shape->text_words[text]]));
}

/* ---- deltas --------------------------------------------------------------------------------------------------- */

/* How many words an item of a delta has. */
static inline uint32_t dz_delta_stride(const dz_shape *shape)
{
    return shape->words + 1;
}

/* The row of an item. */
static inline uint64_t *dz_delta_row(const dz_delta *delta, const dz_shape *shape, uint32_t at)
{
    return delta->items + (size_t)at * dz_delta_stride(shape);
}

/* The weight of an item. */
static inline int64_t dz_delta_weight(const dz_delta *delta, const dz_shape *shape, uint32_t at)
{
    return (int64_t)dz_delta_row(delta, shape, at)[shape->words];
}

/* Makes room for so many items in all. */
__attribute__((noinline)) static void dz_delta_reserve(dz_base *base, dz_delta *delta, const dz_shape *shape,
                                                       uint64_t count)
{
    if (count <= delta->capacity) return;
    uint64_t capacity = (uint64_t)delta->capacity * 2 > 16 ? (uint64_t)delta->capacity * 2 : 16;
    if (capacity < count) capacity = count;
    if (capacity > UINT32_MAX) {
        capacity = UINT32_MAX;
        if (count > capacity) dz_raise(base, DZ_NO_MEMORY, "more changes in one step than a node can hold");
    }
    size_t item = dz_delta_stride(shape) * sizeof(uint64_t);
    delta->items = dz_realloc(base, delta->items, delta->capacity * item, capacity * item);
    delta->capacity = (uint32_t)capacity;
}

/* A place for one more item of this weight, whose row the caller writes. */
static inline uint64_t *dz_delta_place(dz_base *base, dz_delta *delta, const dz_shape *shape, int64_t weight)
{
    if (DZ_UNLIKELY(delta->count == delta->capacity)) dz_delta_reserve(base, delta, shape, (uint64_t)delta->count + 1);
    uint64_t *item = dz_delta_row(delta, shape, delta->count++);
    item[shape->words] = (uint64_t)weight;
    delta->negative |= weight < 0;
    return item;
}

/* Adds a row with a weight. */
static inline void dz_delta_add(dz_base *base, dz_delta *delta, const dz_shape *shape, const uint64_t *row,
                                int64_t weight)
{
    dz_row_copy(shape, dz_delta_place(base, delta, shape, weight), row);
}

/* Adds all items of `from`, which has none then. */
static void dz_delta_move(dz_base *base, dz_delta *to, dz_delta *from, const dz_shape *shape)
{
    if (to->count == 0) {
        dz_delta swapped = *to;
        *to = *from;
        *from = swapped;
    } else if (from->count) {
        dz_delta_reserve(base, to, shape, (uint64_t)to->count + from->count);
        memcpy(dz_delta_row(to, shape, to->count), from->items, (size_t)from->count * dz_delta_stride(shape) * 8);
        to->count += from->count;
        to->negative |= from->negative;
    }
    from->count = 0;
    from->negative = false;
}

/* Forgets the items; their memory is kept for the next ones. */
static inline void dz_delta_clear(dz_delta *delta)
{
    delta->count = 0;
    delta->negative = false;
}

/* Gives the memory back. */
static inline void dz_delta_free(dz_base *base, dz_delta *delta, const dz_shape *shape)
{
    dz_free_memory(base, delta->items, (size_t)delta->capacity * dz_delta_stride(shape) * sizeof(uint64_t));
    *delta = (dz_delta){0};
}

/* An empty delta for use within one function, which returns it, the last one first. Where a call fails in between, it goes
   with the node. */
static inline dz_delta *dz_lend(dz_base *base, const dz_shape *shape)
{
    if (base->lent_count == DZ_LENT_MAX) dz_raise(base, DZ_BUG, "too many deltas are lent");
    dz_lent *lent = &base->lent[base->lent_count++];
    *lent = (dz_lent){.stride = dz_delta_stride(shape)};
    return &lent->delta;
}

/* Takes back the delta that was lent last. */
static inline void dz_return(dz_base *base, dz_delta *delta, const dz_shape *shape)
{
    dz_delta_free(base, delta, shape);
    base->lent_count--;
}

/* Holds the texts of all items: of a delta that waits for a later call. */
static inline void dz_delta_hold(dz_base *base, const dz_delta *delta, const dz_shape *shape)
{
    if (shape->texts == 0) return;
    for (uint32_t at = 0; at < delta->count; at++) dz_row_hold(base, shape, dz_delta_row(delta, shape, at));
}

/* Drops them again. */
static inline void dz_delta_drop(dz_base *base, const dz_delta *delta, const dz_shape *shape)
{
    if (shape->texts == 0) return;
    for (uint32_t at = 0; at < delta->count; at++) dz_row_drop(base, shape, dz_delta_row(delta, shape, at));
}

#define DZ_AHEAD 8u

/* Adds up the weights of equal rows, in place; those of weight 0 go. Rows stay in the order of their first
   appearance. A slot is the upper half of a row's hash and the number of the item from 1 on. */
static inline void dz_consolidate(dz_base *base, dz_delta *delta, const dz_shape *shape)
{
    uint32_t given = delta->count, kept = 0;
    if (given == 0) return;
    uint64_t size = dz_power_of_two((uint64_t)given * 2), mask = size - 1, hashes[DZ_AHEAD];
    uint64_t *slots = given > 1 ? dz_scratch(base, size) : NULL;
    for (uint32_t at = 0; given > 1 && at < given; at++) {
        if (at % DZ_AHEAD == 0)
            for (uint32_t next = 0; next < DZ_AHEAD && at + next < given; next++) {
                hashes[next] = dz_row_hash(shape, dz_delta_row(delta, shape, at + next));
                __builtin_prefetch(&slots[hashes[next] & mask]);
            }
        const uint64_t *row = dz_delta_row(delta, shape, at);
        uint64_t hash = hashes[at % DZ_AHEAD], mark = hash >> 32, place = hash & mask;
        uint64_t *found = NULL;
        for (; slots[place]; place = (place + 1) & mask) {
            uint64_t *other = dz_delta_row(delta, shape, (uint32_t)slots[place] - 1);
            if (slots[place] >> 32 == mark && dz_row_equal(shape, other, row)) {
                found = other;
                break;
            }
        }
        int64_t weight = dz_delta_weight(delta, shape, at);
        if (found) {
            found[shape->words] = (uint64_t)dz_add_weights(base, (int64_t)found[shape->words], weight);
            continue;
        }
        uint64_t *target = dz_delta_row(delta, shape, kept++);
        if (target != row) dz_row_copy(shape, target, row);
        target[shape->words] = (uint64_t)weight;
        slots[place] = mark << 32 | kept;
    }
    uint32_t left = 0;
    bool negative = false;
    for (uint32_t at = 0; at < (given > 1 ? kept : 1); at++) {
        const uint64_t *item = dz_delta_row(delta, shape, at);
        int64_t weight = (int64_t)item[shape->words];
        if (weight == 0) continue;
        uint64_t *target = dz_delta_row(delta, shape, left++);
        if (target != item) memmove(target, item, dz_delta_stride(shape) * sizeof(uint64_t));
        negative |= weight < 0;
    }
    delta->count = left;
    delta->negative = negative;
}

/* ---- what every library exports ------------------------------------------------------------------------------- */

/* See DZ_ABI. */
DZ_EXPORT int64_t dz_abi(void)
{
    return DZ_ABI;
}

#endif
