/* TIGER's network for one history, in float32 on a CPU: what genrec/models/folded.py computes, without a call per operation.

With one history and few beams the products are short, so that half of the time of a torch path goes into calls, and the
products wait for weights. Here a layer is one run through memory: a matrix lies in panels of 32 columns, is read once for
all rows, and norms, softmax and residual sums happen on what is in the cache. genrec/models/native.py compiles this file,
lays the weights out and calls it.

Letters: X rows, D width of the states, I = H * d width of all heads, F of the feed-forward part, T positions of the
history, V codes. Rows of a buffer stand up32(width) apart; what lies beyond the width is zero or never read. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PANEL 32
#define ROWS 12  /* rows of a product that share what was read of a panel */
#define BEAMS 36 /* that go through the layers together */

typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(64), aligned(4), may_alias));
enum { LANES = sizeof(lanes) / sizeof(float) };

enum mode { SET, ADD, RELU };

/* Matrices of a layer in panels; the encoder's have no query, cross_out and keys_values. */
typedef struct {
    const float *qkv, *out, *wide, *narrow, *query, *cross_out, *keys_values;
} layer;

typedef struct {
    int64_t width, heads, head_width, feed, vocabulary, layers;
    float floor; /* added, squared, to a norm's sum of squares */
    const float *embedding; /* [V, D] */
    const float *table;     /* [V, 3 * I], the first layer's queries, keys and values of each code; NULL: compute them */
    const float *head;      /* D to V in panels; the encoder's: NULL */
    const layer *stack;
} network;

static inline lanes where(whole truth, lanes value, lanes otherwise) {
    return (lanes)((truth & (whole)value) | (~truth & (whole)otherwise));
}

static int64_t up32(int64_t count) { return (count + PANEL - 1) / PANEL * PANEL; }

/* A thread's own room, kept from call to call; NULL: there is none to be had. */
static float *room_for(int64_t floats) {
    static __thread float *room;
    static __thread int64_t size;
    if (floats > size) {
        free(room);
        room = aligned_alloc(64, (size_t)up32(floats) * sizeof(float));
        size = room ? up32(floats) : 0;
    }
    return room;
}

/* ---- products ---- */

/* c [rows, 32] of a [rows, inner] times b [inner, 32]; rows is known when compiled. */
static inline __attribute__((always_inline)) void tile(const int rows, const float *a, int64_t a_step, const float *b,
                                                       int64_t b_step, int64_t inner, float *c, int64_t c_step,
                                                       enum mode mode) {
    lanes sum[ROWS][2];
#pragma GCC unroll 12
    for (int row = 0; row < rows; row++) {
        if (mode == ADD) {
            sum[row][0] = *(const lanes *)(c + row * c_step);
            sum[row][1] = *(const lanes *)(c + row * c_step + LANES);
        } else {
            sum[row][0] = sum[row][1] = (lanes){0};
        }
    }
    for (int64_t place = 0; place < inner; place++) {
        const lanes left = *(const lanes *)(b + place * b_step), right = *(const lanes *)(b + place * b_step + LANES);
#pragma GCC unroll 12
        for (int row = 0; row < rows; row++) {
            const float factor = a[row * a_step + place];
            sum[row][0] += factor * left;
            sum[row][1] += factor * right;
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < rows; row++) {
        if (mode == RELU) {
            sum[row][0] = where(sum[row][0] > 0.0f, sum[row][0], (lanes){0});
            sum[row][1] = where(sum[row][1] > 0.0f, sum[row][1], (lanes){0});
        }
        *(lanes *)(c + row * c_step) = sum[row][0];
        *(lanes *)(c + row * c_step + LANES) = sum[row][1];
    }
}

#define TILE(rows)                                                                                                    \
    case rows:                                                                                                        \
        tile(rows, a, a_step, b, b_step, inner, c, c_step, mode);                                                     \
        break;

/* c [rows, 32] of a [rows, inner] times b [inner, 32], in tiles of like height. */
static inline __attribute__((always_inline)) void column(int64_t rows, const float *a, int64_t a_step, const float *b,
                                                         int64_t b_step, int64_t inner, float *c, int64_t c_step,
                                                         const enum mode mode) {
    for (int64_t tiles = (rows + ROWS - 1) / ROWS; tiles > 0; tiles--) {
        const int64_t height = (rows + tiles - 1) / tiles;
        switch (height) {
            TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
        }
        a += height * a_step;
        c += height * c_step;
        rows -= height;
    }
}

static void column_set(int64_t rows, const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t inner,
                       float *c, int64_t c_step) {
    column(rows, a, a_step, b, b_step, inner, c, c_step, SET);
}

static void column_add(int64_t rows, const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t inner,
                       float *c, int64_t c_step) {
    column(rows, a, a_step, b, b_step, inner, c, c_step, ADD);
}

static void column_relu(int64_t rows, const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t inner,
                        float *c, int64_t c_step) {
    column(rows, a, a_step, b, b_step, inner, c, c_step, RELU);
}

/* c [rows, outputs] of a [rows, inner] times a matrix in panels. */
static void product(int64_t rows, const float *a, int64_t a_step, const float *panels, int64_t inner, int64_t outputs,
                    float *c, int64_t c_step, enum mode mode) {
    for (int64_t begin = 0; begin < outputs; begin += PANEL) {
        const float *b = panels + begin * inner;
        if (mode == SET) {
            column_set(rows, a, a_step, b, PANEL, inner, c + begin, c_step);
        } else if (mode == ADD) {
            column_add(rows, a, a_step, b, PANEL, inner, c + begin, c_step);
        } else {
            column_relu(rows, a, a_step, b, PANEL, inner, c + begin, c_step);
        }
    }
}

/* ---- what happens to a row ---- */

static float sum_of(lanes values) {
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) {
        sum += values[lane];
    }
    return sum;
}

static float dot(const float *left, const float *right, int64_t width) {
    lanes sums = {0};
    int64_t place = 0;
    for (; place + LANES <= width; place += LANES) {
        sums += *(const lanes *)(left + place) * *(const lanes *)(right + place);
    }
    float sum = sum_of(sums);
    for (; place < width; place++) {
        sum += left[place] * right[place];
    }
    return sum;
}

/* into += factor * values */
static void add_scaled(float *into, float factor, const float *values, int64_t width) {
    int64_t place = 0;
    for (; place + LANES <= width; place += LANES) {
        *(lanes *)(into + place) += factor * *(const lanes *)(values + place);
    }
    for (; place < width; place++) {
        into[place] += factor * values[place];
    }
}

/* T5's layer norm without gain, divided by sqrt(D). */
static void normed(int64_t rows, const float *states, int64_t width, float floor, float *into, int64_t step) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = states + row * step;
        const float scale = 1.0f / sqrtf(dot(from, from, width) + floor * floor);
        for (int64_t place = 0; place < step; place += LANES) {
            *(lanes *)(into + row * step + place) = *(const lanes *)(from + place) * scale;
        }
    }
}

/* e^x for x <= 0 to float precision: 2^n times a polynomial of what is left of x. */
static inline lanes exponential(lanes x) {
    x = where(x > -87.0f, x, (lanes){0} - 87.0f);
    const lanes shifted = x * 1.44269504088896341f + 12582912.0f; /* the integer stands in the last bits */
    const lanes n = shifted - 12582912.0f;
    const lanes left = x - n * 0.693359375f + n * 2.12194440e-4f;
    lanes value = left * 1.9875691500e-4f + 1.3981999507e-3f;
    value = value * left + 8.3334519073e-3f;
    value = value * left + 4.1665795894e-2f;
    value = value * left + 1.6666665459e-1f;
    value = value * left + 5.0000001201e-1f;
    value = value * left * left + left + 1.0f;
    const whole power = (__builtin_convertvector(n, whole) + 127) << 23;
    return value * (lanes)power;
}

/* softmax of scores [rows, count] plus bias (NULL: none); beyond count the result is zero. */
static void softmax(int64_t rows, float *scores, int64_t step, int64_t count, const float *bias) {
    for (int64_t row = 0; row < rows; row++) {
        float *own = scores + row * step;
        if (bias) {
            const float *added = bias + row * count;
            for (int64_t place = 0; place < count; place++) {
                own[place] += added[place];
            }
        }
        for (int64_t place = count; place < step; place++) {
            own[place] = -INFINITY;
        }
        lanes most = *(const lanes *)own;
        for (int64_t place = LANES; place < step; place += LANES) {
            const lanes other = *(const lanes *)(own + place);
            most = where(other > most, other, most);
        }
        float highest = most[0];
        for (int lane = 1; lane < LANES; lane++) {
            highest = most[lane] > highest ? most[lane] : highest;
        }
        lanes sums = {0};
        for (int64_t place = 0; place < step; place += LANES) {
            const lanes given = *(const lanes *)(own + place) - highest;
            const lanes value = where(given > -87.0f, exponential(given), (lanes){0});
            *(lanes *)(own + place) = value;
            sums += value;
        }
        const float scale = 1.0f / sum_of(sums);
        for (int64_t place = 0; place < step; place += LANES) {
            *(lanes *)(own + place) *= scale;
        }
    }
}

/* Keys [T, .. head_width ..] of one head with position as column: [head_width, up32(T)]. */
static void turned(int64_t positions, const float *keys, int64_t step, int64_t head_width, float *into) {
    const int64_t into_step = up32(positions);
    memset(into, 0, (size_t)(head_width * into_step) * sizeof(float));
    for (int64_t position = 0; position < positions; position++) {
        for (int64_t place = 0; place < head_width; place++) {
            into[place * into_step + position] = keys[position * step + place];
        }
    }
}

/* One head's attention: mixed [rows, head_width] from queries, turned keys and values [T, head_width]; values may be read
   up to 31 numbers beyond. scores: room for [rows, up32(T)], made: for [rows, up32(head_width)]. */
static void attended(int64_t rows, const float *queries, int64_t query_step, const float *keys, const float *values,
                     int64_t value_step, int64_t positions, int64_t head_width, const float *bias, float *scores,
                     float *made, float *mixed, int64_t mixed_step) {
    const int64_t step = up32(positions), made_step = up32(head_width);
    for (int64_t begin = 0; begin < positions; begin += PANEL) {
        column_set(rows, queries, query_step, keys + begin, step, head_width, scores + begin, step);
    }
    softmax(rows, scores, step, positions, bias);
    for (int64_t begin = 0; begin < head_width; begin += PANEL) {
        column_set(rows, scores, step, values + begin, value_step, positions, made + begin, made_step);
    }
    for (int64_t row = 0; row < rows; row++) {
        memcpy(mixed + row * mixed_step, made + row * made_step, (size_t)head_width * sizeof(float));
    }
}

static void embedded(const network *net, int64_t rows, const int64_t *tokens, float *states) {
    const int64_t step = up32(net->width);
    memset(states, 0, (size_t)(rows * step) * sizeof(float));
    for (int64_t row = 0; row < rows; row++) {
        memcpy(states + row * step, net->embedding + tokens[row] * net->width, (size_t)net->width * sizeof(float));
    }
}

/* Queries, keys and values [rows, 3 * I] of layer ``index``. */
static void asked(const network *net, int64_t index, int64_t rows, const int64_t *tokens, const float *states,
                  float *norms, float *qkv) {
    const int64_t outputs = 3 * net->heads * net->head_width, step = up32(outputs);
    if (index == 0 && net->table) {
        for (int64_t row = 0; row < rows; row++) {
            memcpy(qkv + row * step, net->table + tokens[row] * outputs, (size_t)outputs * sizeof(float));
        }
        return;
    }
    normed(rows, states, net->width, net->floor, norms, up32(net->width));
    product(rows, norms, up32(net->width), net->stack[index].qkv, net->width, outputs, qkv, step, SET);
}

/* states += feed-forward part of the states */
static void fed(const network *net, const layer *of, int64_t rows, float *states, float *norms, float *wide) {
    const int64_t step = up32(net->width);
    normed(rows, states, net->width, net->floor, norms, step);
    product(rows, norms, step, of->wide, net->width, net->feed, wide, up32(net->feed), RELU);
    product(rows, wide, up32(net->feed), of->narrow, net->feed, net->width, states, step, ADD);
}

/* ---- what Python calls; 0: done, 1: no memory ---- */

/* States [T, D] of the encoder, last norm without gain. bias: [H, T, T], a causal mask in it. */
int encode(const network *net, const int64_t *tokens, int64_t T, const float *bias, float *into) {
    const int64_t inner = net->heads * net->head_width, step = up32(net->width), qkv_step = up32(3 * inner);
    const int64_t mixed_step = up32(inner), columns = up32(T);
    float *states = room_for(T * (2 * step + qkv_step + mixed_step + columns + up32(net->feed)) +
                             T * up32(net->head_width) + net->head_width * columns + 2 * PANEL);
    if (!states) {
        return 1;
    }
    float *norms = states + T * step, *mixed = norms + T * step, *wide = mixed + T * mixed_step;
    float *scores = wide + T * up32(net->feed), *made = scores + T * columns;
    float *keys = made + T * up32(net->head_width), *qkv = keys + net->head_width * columns;
    embedded(net, T, tokens, states);
    for (int64_t index = 0; index < net->layers; index++) {
        const layer *of = net->stack + index;
        asked(net, index, T, tokens, states, norms, qkv);
        for (int64_t head = 0; head < net->heads; head++) {
            const int64_t begin = head * net->head_width;
            turned(T, qkv + inner + begin, qkv_step, net->head_width, keys);
            attended(T, qkv + begin, qkv_step, keys, qkv + 2 * inner + begin, qkv_step, T, net->head_width,
                     bias + head * T * T, scores, made, mixed + begin, mixed_step);
        }
        product(T, mixed, mixed_step, of->out, inner, net->width, states, step, ADD);
        fed(net, of, T, states, norms, wide);
    }
    normed(T, states, net->width, net->floor, norms, step);
    for (int64_t row = 0; row < T; row++) {
        memcpy(into + row * net->width, norms + row * step, (size_t)net->width * sizeof(float));
    }
    return 0;
}

/* Keys [layers, H, d, up32(T)] and values [layers, T, I] (and 32 numbers of slack) of a memory of states [T, D]. */
int read_memory(const network *net, const float *states, int64_t T, float *keys, float *values) {
    const int64_t inner = net->heads * net->head_width, step = up32(2 * inner), head = net->head_width * up32(T);
    float *both = room_for(T * step);
    if (!both) {
        return 1;
    }
    for (int64_t index = 0; index < net->layers; index++) {
        product(T, states, net->width, net->stack[index].keys_values, net->width, 2 * inner, both, step, SET);
        for (int64_t at = 0; at < net->heads; at++) {
            turned(T, both + at * net->head_width, step, net->head_width, keys + (index * net->heads + at) * head);
        }
        for (int64_t row = 0; row < T; row++) {
            memcpy(values + (index * T + row) * inner, both + row * step + inner, (size_t)inner * sizeof(float));
        }
    }
    return 0;
}

/* mixed [I] of one beam over its earlier positions and itself; kept: keys and values [S, layers, X, 2 * I]. */
static void over_earlier(const network *net, const float *query, const float *kept, int64_t between, int64_t position,
                         const float *bias, float *mixed) {
    const int64_t inner = net->heads * net->head_width;
    float weights[position + 1];
    for (int64_t head = 0; head < net->heads; head++) {
        const int64_t begin = head * net->head_width;
        float highest = -INFINITY, sum = 0;
        for (int64_t earlier = 0; earlier <= position; earlier++) {
            const float *key = kept + earlier * between + begin;
            weights[earlier] = dot(query + begin, key, net->head_width) + bias[earlier * net->heads + head];
            highest = weights[earlier] > highest ? weights[earlier] : highest;
        }
        for (int64_t earlier = 0; earlier <= position; earlier++) {
            weights[earlier] = expf(weights[earlier] - highest);
            sum += weights[earlier];
        }
        memset(mixed + begin, 0, (size_t)net->head_width * sizeof(float));
        for (int64_t earlier = 0; earlier <= position; earlier++) {
            const float *value = kept + earlier * between + inner + begin;
            add_scaled(mixed + begin, weights[earlier] / sum, value, net->head_width);
        }
    }
}

/* Logits [count, up32(V)] after one further code of the beams from ``begin`` on; as for ``advance``. */
static int some_advance(const network *net, const int64_t *tokens, int64_t begin, int64_t count, int64_t X,
                        int64_t position, float *kept, const float *bias, const float *keys, const float *values,
                        int64_t T, float *logits) {
    const int64_t inner = net->heads * net->head_width, step = up32(net->width), qkv_step = up32(3 * inner);
    const int64_t mixed_step = up32(inner), columns = up32(T), between = net->layers * X * 2 * inner;
    float *states = room_for(count * (2 * step + qkv_step + 2 * mixed_step + columns + up32(net->feed)) +
                             count * up32(net->head_width) + PANEL);
    if (!states) {
        return 1;
    }
    float *norms = states + count * step, *qkv = norms + count * step, *mixed = qkv + count * qkv_step;
    float *queries = mixed + count * mixed_step, *wide = queries + count * mixed_step;
    float *scores = wide + count * up32(net->feed), *made = scores + count * columns;
    embedded(net, count, tokens + begin, states);
    for (int64_t index = 0; index < net->layers; index++) {
        const layer *of = net->stack + index;
        asked(net, index, count, tokens + begin, states, norms, qkv);
        for (int64_t beam = 0; beam < count; beam++) {
            float *first = kept + (index * X + begin + beam) * 2 * inner;
            const float *own = qkv + beam * qkv_step;
            memcpy(first + position * between, own + inner, (size_t)(2 * inner) * sizeof(float));
            over_earlier(net, own, first, between, position, bias, mixed + beam * mixed_step);
        }
        product(count, mixed, mixed_step, of->out, inner, net->width, states, step, ADD);
        normed(count, states, net->width, net->floor, norms, step);
        product(count, norms, step, of->query, net->width, inner, queries, mixed_step, SET);
        for (int64_t head = 0; head < net->heads; head++) {
            const int64_t place = head * net->head_width;
            attended(count, queries + place, mixed_step, keys + (index * inner + place) * columns,
                     values + index * T * inner + place, inner, T, net->head_width, NULL, scores, made, mixed + place,
                     mixed_step);
        }
        product(count, mixed, mixed_step, of->cross_out, inner, net->width, states, step, ADD);
        fed(net, of, count, states, norms, wide);
    }
    normed(count, states, net->width, net->floor, norms, step);
    product(count, norms, step, net->head, net->width, net->vocabulary, logits + begin * up32(net->vocabulary),
            up32(net->vocabulary), SET);
    return 0;
}

/* Logits [X, up32(V)] after one further code of each of X beams, as many at a time as the cache has room for.
   kept: [S, layers, X, 2 * I], of which position is filled here; bias: [S, H], of this position for each earlier one. */
int advance(const network *net, const int64_t *tokens, int64_t X, int64_t position, float *kept, const float *bias,
            const float *keys, const float *values, int64_t T, float *logits) {
    for (int64_t begin = 0; begin < X; begin += BEAMS) {
        const int64_t count = X - begin < BEAMS ? X - begin : BEAMS;
        if (some_advance(net, tokens, begin, count, X, position, kept, bias, keys, values, T, logits)) {
            return 1;
        }
    }
    return 0;
}
