/* XXH64 with seed 0, the hash of stored formats, and with it the hash of a key: see dist_zero/hashing.py.

The algorithm is Yann Collet's, as its specification says it: four lanes of 8 bytes while there are 32, then what is
left in steps of 8, 4 and 1, then an avalanche. */

#ifndef DZ_XXH64_H
#define DZ_XXH64_H

#include "core.h"

#define DZ_PRIME_1 0x9e3779b185ebca87u
#define DZ_PRIME_2 0xc2b2ae3d27d4eb4fu
#define DZ_PRIME_3 0x165667b19e3779f9u
#define DZ_PRIME_4 0x85ebca77c2b2ae63u
#define DZ_PRIME_5 0x27d4eb2f165667c5u

/* A hash of bytes that come piece by piece. All zero but for what `dz_xxh64_begin` sets. */
typedef struct {
    uint64_t lanes[4];
    uint64_t length;
    char waiting[32];
    uint32_t waiting_count;
} dz_xxh64_state;

static inline uint64_t dz_rotate(uint64_t word, int bits)
{
    return word << bits | word >> (64 - bits);
}

/* One lane takes in 8 bytes. */
static inline uint64_t dz_xxh64_round(uint64_t lane, uint64_t word)
{
    return dz_rotate(lane + word * DZ_PRIME_2, 31) * DZ_PRIME_1;
}

/* The hash takes in 8 bytes of the rest. */
static inline uint64_t dz_xxh64_step_8(uint64_t hash, uint64_t word)
{
    return dz_rotate(hash ^ dz_xxh64_round(0, word), 27) * DZ_PRIME_1 + DZ_PRIME_4;
}

/* The hash takes in 1 byte of the rest. */
static inline uint64_t dz_xxh64_step_1(uint64_t hash, uint8_t byte)
{
    return dz_rotate(hash ^ byte * DZ_PRIME_5, 11) * DZ_PRIME_1;
}

/* Every bit of the hash depends on every other. */
static inline uint64_t dz_xxh64_avalanche(uint64_t hash)
{
    hash = (hash ^ hash >> 33) * DZ_PRIME_2;
    hash = (hash ^ hash >> 29) * DZ_PRIME_3;
    return hash ^ hash >> 32;
}

/* The four lanes before anything. */
static inline void dz_xxh64_lanes(uint64_t lanes[4])
{
    lanes[0] = DZ_PRIME_1 + DZ_PRIME_2;
    lanes[1] = DZ_PRIME_2;
    lanes[2] = 0;
    lanes[3] = -DZ_PRIME_1;
}

/* The four lanes take in 32 bytes. */
static inline void dz_xxh64_block(uint64_t lanes[4], const char *bytes)
{
    for (int lane = 0; lane < 4; lane++) lanes[lane] = dz_xxh64_round(lanes[lane], dz_load_word(bytes + 8 * lane));
}

/* The lanes as one hash. */
static inline uint64_t dz_xxh64_join(const uint64_t lanes[4])
{
    uint64_t hash = dz_rotate(lanes[0], 1) + dz_rotate(lanes[1], 7) + dz_rotate(lanes[2], 12) + dz_rotate(lanes[3], 18);
    for (int lane = 0; lane < 4; lane++)
        hash = (hash ^ dz_xxh64_round(0, lanes[lane])) * DZ_PRIME_1 + DZ_PRIME_4;
    return hash;
}

/* The hash takes in the last bytes, fewer than 32, and is ready. */
static inline uint64_t dz_xxh64_rest(uint64_t hash, const char *bytes, size_t count)
{
    for (; count >= 8; count -= 8, bytes += 8) hash = dz_xxh64_step_8(hash, dz_load_word(bytes));
    if (count >= 4) {
        uint32_t word;
        memcpy(&word, bytes, 4);
        hash = dz_rotate(hash ^ word * DZ_PRIME_1, 23) * DZ_PRIME_2 + DZ_PRIME_3;
        count -= 4;
        bytes += 4;
    }
    for (; count; count--, bytes++) hash = dz_xxh64_step_1(hash, (uint8_t)*bytes);
    return dz_xxh64_avalanche(hash);
}

/* XXH64 of bytes. */
static inline uint64_t dz_xxh64(const void *data, size_t length)
{
    const char *bytes = data;
    uint64_t hash = DZ_PRIME_5;
    size_t rest = length;
    if (length >= 32) {
        uint64_t lanes[4];
        dz_xxh64_lanes(lanes);
        for (; rest >= 32; rest -= 32, bytes += 32) dz_xxh64_block(lanes, bytes);
        hash = dz_xxh64_join(lanes);
    }
    return dz_xxh64_rest(hash + length, bytes, rest);
}

/* Begins a hash of pieces. */
static inline void dz_xxh64_begin(dz_xxh64_state *state)
{
    dz_xxh64_lanes(state->lanes);
    state->length = 0;
    state->waiting_count = 0;
}

/* The next piece. */
static inline void dz_xxh64_add(dz_xxh64_state *state, const void *data, size_t length)
{
    const char *bytes = data;
    state->length += length;
    if (state->waiting_count) {
        size_t missing = 32 - state->waiting_count, taken = length < missing ? length : missing;
        memcpy(state->waiting + state->waiting_count, bytes, taken);
        state->waiting_count += (uint32_t)taken;
        if (state->waiting_count < 32) return;
        dz_xxh64_block(state->lanes, state->waiting);
        state->waiting_count = 0;
        bytes += taken;
        length -= taken;
    }
    for (; length >= 32; length -= 32, bytes += 32) dz_xxh64_block(state->lanes, bytes);
    if (length) memcpy(state->waiting, bytes, length);
    state->waiting_count = (uint32_t)length;
}

/* XXH64 of all pieces so far. */
static inline uint64_t dz_xxh64_end(const dz_xxh64_state *state)
{
    uint64_t hash = state->length >= 32 ? dz_xxh64_join(state->lanes) : DZ_PRIME_5;
    return dz_xxh64_rest(hash + state->length, state->waiting, state->waiting_count);
}

/* The hash of a key of one value of 8 bytes: int, datetime, decimal, enum, float. Its encoding is 0x01 and the value. */
static inline uint64_t dz_key_hash_word(uint64_t word)
{
    uint64_t hash = dz_xxh64_step_8(DZ_PRIME_5 + 9, word << 8 | 1);
    return dz_xxh64_avalanche(dz_xxh64_step_1(hash, (uint8_t)(word >> 56)));
}

/* The hash of a key of one text or byte string. Its encoding is 0x01, the length in 8 bytes, and the bytes. */
static inline uint64_t dz_key_hash_bytes(const char *bytes, size_t length)
{
    char short_key[128];
    uint64_t long_length = length;
    short_key[0] = 1;
    memcpy(short_key + 1, &long_length, 8);
    if (length <= sizeof short_key - 9) {
        if (length) memcpy(short_key + 9, bytes, length);
        return dz_xxh64(short_key, length + 9);
    }
    dz_xxh64_state state;
    dz_xxh64_begin(&state);
    dz_xxh64_add(&state, short_key, 9);
    dz_xxh64_add(&state, bytes, length);
    return dz_xxh64_end(&state);
}

/* One value of a key is taken into the hash; `text` only where the kind is str or bytes. */
static inline void dz_key_hash_value(dz_xxh64_state *state, uint8_t kind, bool null, uint64_t word, const char *text,
                                     size_t length)
{
    char value[9] = {null ? 0 : 1};
    if (null) {
        dz_xxh64_add(state, value, 1);
    } else if (kind == DZ_STR || kind == DZ_BYTES) {
        uint64_t long_length = length;
        memcpy(value + 1, &long_length, 8);
        dz_xxh64_add(state, value, 9);
        dz_xxh64_add(state, text, length);
    } else {
        memcpy(value + 1, &word, 8);
        dz_xxh64_add(state, value, kind == DZ_BOOL ? 2 : 9);
    }
}

/* The hash of a row of this shape as a key: XXH64 of its canonical encoding. */
static inline uint64_t dz_key_hash(const dz_shape *shape, const uint64_t *row)
{
    if (shape->columns == 1 && !dz_is_null(shape, row, 0)) {
        uint64_t word = row[shape->null_words];
        uint8_t kind = shape->kinds[0];
        if (kind == DZ_STR || kind == DZ_BYTES) return dz_key_hash_bytes(dz_text_of(word)->bytes, dz_text_of(word)->length);
        if (kind != DZ_BOOL) return dz_key_hash_word(word);
    }
    dz_xxh64_state state;
    dz_xxh64_begin(&state);
    for (uint32_t column = 0; column < shape->columns; column++) {
        uint64_t word = row[shape->null_words + column];
        uint8_t kind = shape->kinds[column];
        bool null = dz_is_null(shape, row, column), is_text = !null && (kind == DZ_STR || kind == DZ_BYTES);
        const dz_text *text = is_text ? dz_text_of(word) : NULL;
        dz_key_hash_value(&state, kind, null, word, is_text ? text->bytes : NULL, is_text ? text->length : 0);
    }
    return dz_xxh64_end(&state);
}

#endif
