/* The tile instructions of AMX in plain C, to be compiled before kernel.c where the processor lacks them. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

static uint32_t tiles[8][16][16];

static void load_tile(int tile, const void *from, size_t step) {
    for (int i = 0; i < 16; i++) memcpy(tiles[tile][i], (const char *)from + i * step, 64);
}

static void store_tile(int tile, void *to, size_t step) {
    for (int i = 0; i < 16; i++) memcpy((char *)to + i * step, tiles[tile][i], 64);
}

static float as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static void add_product(int sum, int a, int b) {
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) {
            uint32_t left = tiles[a][i][k];
            for (int j = 0; j < 16; j++) {
                uint32_t right = tiles[b][k][j];
                float x = as_float(tiles[sum][i][j]);
                x += as_float(left << 16) * as_float(right << 16);
                x += as_float(left & 0xffff0000) * as_float(right & 0xffff0000);
                memcpy(&tiles[sum][i][j], &x, 4);
            }
        }
}

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_zero(tile) memset(tiles[tile], 0, sizeof tiles[tile])
#define _tile_loadd load_tile
#define _tile_stored store_tile
#define _tile_dpbf16ps add_product
#define _tile_loadconfig(config) ((void)(config))
#define _tile_storeconfig(config) memset(config, 0, sizeof *(config))
