/* The sampling kernel itself, written once and included once per (element type, instruction set).
 *
 * The including file defines:
 *   NAME(x)       appends the suffix of this variant to a function's name
 *   TARGET        function attribute that selects the instruction set (may be empty)
 *   VECTOR_BYTES  width of a vector register of that instruction set
 *   ELEMENT       stored type of value and output: float, double, or uint16_t (the upper half of a float, "bf16")
 *   REAL          type of locations, weights, all gradients and all sums: float or double
 *   IS_BF16       1 when ELEMENT is bf16
 *
 * Notation: a sample is one (query, level, point) of one head; its four corners are the pixels around it,
 * numbered 00 01 10 11 as (row, column).
 */

#define VL ((int)(VECTOR_BYTES / sizeof(REAL)))
#define VECTOR NAME(vector)
#define INLINE static inline __attribute__((always_inline)) TARGET
/* Inlined, gcc forgets which arrays do not overlap and gives up on vector instructions. */
#define APART static __attribute__((noinline)) TARGET

typedef REAL VECTOR __attribute__((vector_size(VECTOR_BYTES)));

/* ---- elements ---- */

INLINE REAL NAME(read_one)(const ELEMENT *p) {
#if IS_BF16
    uint32_t bits = (uint32_t)*p << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
#else
    return *p;
#endif
}

INLINE void NAME(write_one)(ELEMENT *p, REAL x) {
#if IS_BF16
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16; /* to nearest, ties to even */
    *p = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
#else
    *p = x;
#endif
}

/* Vectors travel through pointers: by value they would be part of an ABI that differs between instruction sets. */
INLINE void NAME(read)(VECTOR *out, const ELEMENT *p) {
#if IS_BF16
    typedef uint16_t half_words __attribute__((vector_size(VECTOR_BYTES / 2)));
    typedef uint32_t words __attribute__((vector_size(VECTOR_BYTES)));
    half_words packed;
    memcpy(&packed, p, sizeof packed);
    words bits = __builtin_convertvector(packed, words) << 16;
    *out = (VECTOR)bits;
#else
    memcpy(out, p, sizeof *out);
#endif
}

/* ---- geometry ---- */

/* Neighbours of n normalised coordinates along one axis of `size` pixels: clamped indices, and linear weights that
 * are zero for a neighbour outside. `inside0/1` (0 or 1) is what the derivative of the weights needs. */
APART void NAME(neighbours)(int64_t n, int32_t size, const REAL *restrict normalised, int32_t *restrict index0,
                             int32_t *restrict index1, REAL *restrict weight0, REAL *restrict weight1,
                             REAL *restrict inside0, REAL *restrict inside1) {
    const REAL scale = (REAL)size, low = -2, high = scale + 1;
    for (int64_t i = 0; i < n; i++) {
        REAL x = normalised[i] * scale - (REAL)0.5;
        /* Bounds before the conversion to int, which is undefined out of its range. Two pixels outside neither
         * neighbour counts, so nothing is lost; NaN fails the comparison and goes the same way. */
        x = x > low ? x : low;
        x = x < high ? x : high;
        int32_t left = (int32_t)x;
        left -= x < (REAL)left;
        int32_t right = left + 1;
        REAL fraction = x - (REAL)left;
        /* Products instead of branches: the loop must become vector instructions. */
        const REAL in0 = (REAL)((left >= 0) & (left < size)), in1 = (REAL)((right >= 0) & (right < size));
        weight0[i] = (1 - fraction) * in0;
        weight1[i] = fraction * in1;
        inside0[i] = in0;
        inside1[i] = in1;
        left = left < 0 ? 0 : left;
        index0[i] = left < size ? left : size - 1;
        right = right < 0 ? 0 : right;
        index1[i] = right < size ? right : size - 1;
    }
}

/* Takes one head's samples of one level, for `queries` queries, out of the interleaved arrays. */
INLINE void NAME(gather)(const problem *p, int64_t first_row, int64_t queries, int64_t level, REAL *restrict x,
                         REAL *restrict y, REAL *restrict attention) {
    const int64_t P = p->points, per_row = p->levels * P;
    const REAL *locations = (const REAL *)p->locations + (first_row * per_row + level * P) * 2;
    const REAL *weights = (const REAL *)p->weights + first_row * per_row + level * P;
    for (int64_t q = 0; q < queries; q++) {
        for (int64_t i = 0; i < P; i++) {
            x[q * P + i] = locations[2 * i];
            y[q * P + i] = locations[2 * i + 1];
            attention[q * P + i] = weights[i];
        }
        locations += p->heads * per_row * 2;
        weights += p->heads * per_row;
    }
}

typedef struct {
    REAL *x, *y, *attention;
    int32_t *row0, *row1, *column0, *column1;
    REAL *weight_y0, *weight_y1, *weight_x0, *weight_x1;
    REAL *inside_y0, *inside_y1, *inside_x0, *inside_x1;
    REAL *dot; /* (samples, 4): output gradient times corner */
    int32_t *pixel;  /* (samples, 4): corner's index in the concatenated levels */
    REAL *corner;    /* (samples, 4): bilinear times attention weight */
} NAME(scratch);

/* `samples` counts one level of one block; `all` counts all levels of it. */
INLINE void NAME(divide)(NAME(scratch) * s, char *memory, int64_t samples, int64_t all) {
    REAL **reals[] = {&s->x, &s->y, &s->attention, &s->weight_y0, &s->weight_y1, &s->weight_x0, &s->weight_x1,
                      &s->inside_y0, &s->inside_y1, &s->inside_x0, &s->inside_x1};
    int32_t **ints[] = {&s->row0, &s->row1, &s->column0, &s->column1};
    for (unsigned i = 0; i < sizeof reals / sizeof *reals; i++, memory += samples * 8)
        *reals[i] = (REAL *)memory;
    for (unsigned i = 0; i < sizeof ints / sizeof *ints; i++, memory += samples * 8)
        *ints[i] = (int32_t *)memory;
    s->dot = (REAL *)memory;
    s->pixel = (int32_t *)(memory + samples * 32);
    s->corner = (REAL *)(memory + samples * 32 + all * 32);
}

/* From gathered coordinates to the four corners' pixels and weights. */
INLINE void NAME(corners)(NAME(scratch) * s, int64_t n, int32_t height, int32_t width, int32_t start,
                          int32_t *restrict pixel, REAL *restrict corner) {
    NAME(neighbours)(n, width, s->x, s->column0, s->column1, s->weight_x0, s->weight_x1,
                     s->inside_x0, s->inside_x1);
    NAME(neighbours)(n, height, s->y, s->row0, s->row1, s->weight_y0, s->weight_y1,
                     s->inside_y0, s->inside_y1);
    const REAL *restrict y0 = s->weight_y0, *restrict y1 = s->weight_y1;
    const REAL *restrict x0 = s->weight_x0, *restrict x1 = s->weight_x1, *restrict a = s->attention;
    const int32_t *restrict r0 = s->row0, *restrict r1 = s->row1;
    const int32_t *restrict c0 = s->column0, *restrict c1 = s->column1;
    for (int64_t i = 0; i < n; i++) {
        corner[4 * i + 0] = a[i] * y0[i] * x0[i];
        corner[4 * i + 1] = a[i] * y0[i] * x1[i];
        corner[4 * i + 2] = a[i] * y1[i] * x0[i];
        corner[4 * i + 3] = a[i] * y1[i] * x1[i];
        pixel[4 * i + 0] = start + r0[i] * width + c0[i];
        pixel[4 * i + 1] = start + r0[i] * width + c1[i];
        pixel[4 * i + 2] = start + r1[i] * width + c0[i];
        pixel[4 * i + 3] = start + r1[i] * width + c1[i];
    }
}

/* ---- forward ---- */

/* Weighted sum of all corners of one query, for `count` (a constant) vectors of channels. */
INLINE void NAME(sum_channels)(const problem *p, int count, const ELEMENT *value, const int32_t *pixel,
                               const REAL *corner, int64_t level_step, ELEMENT *out) {
    const int64_t stride = p->heads * p->channels, per_level = 4 * p->points;
    VECTOR even[4] = {{0}}, odd[4] = {{0}}; /* two chains of additions hide their latency */
    for (int64_t l = 0; l < p->levels; l++, pixel += level_step, corner += level_step) {
        for (int64_t j = 0; j < per_level; j += 2) {
            const ELEMENT *a = value + pixel[j] * stride, *b = value + pixel[j + 1] * stride;
            for (int i = 0; i < count; i++) {
                VECTOR va, vb;
                NAME(read)(&va, a + i * VL);
                NAME(read)(&vb, b + i * VL);
                even[i] += corner[j] * va;
                odd[i] += corner[j + 1] * vb;
            }
        }
    }
    for (int i = 0; i < count; i++) {
        VECTOR total = even[i] + odd[i];
        REAL lanes[VECTOR_BYTES / sizeof(REAL)];
        memcpy(lanes, &total, sizeof total);
        for (int c = 0; c < VL; c++)
            NAME(write_one)(out + i * VL + c, lanes[c]);
    }
}

INLINE void NAME(forward_channels)(const problem *p, int64_t channels, const ELEMENT *value, const int32_t *pixel,
                                   const REAL *corner, int64_t level_step, ELEMENT *out) {
    const int64_t stride = p->heads * p->channels, per_level = 4 * p->points;
    int64_t c = 0;
    for (; c + 4 * VL <= channels; c += 4 * VL)
        NAME(sum_channels)(p, 4, value + c, pixel, corner, level_step, out + c);
    for (; c + 2 * VL <= channels; c += 2 * VL)
        NAME(sum_channels)(p, 2, value + c, pixel, corner, level_step, out + c);
    for (; c + VL <= channels; c += VL)
        NAME(sum_channels)(p, 1, value + c, pixel, corner, level_step, out + c);
    for (; c < channels; c++) {
        REAL total = 0;
        for (int64_t l = 0; l < p->levels; l++)
            for (int64_t j = 0; j < per_level; j++)
                total += corner[l * level_step + j] * NAME(read_one)(value + pixel[l * level_step + j] * stride + c);
        NAME(write_one)(out + c, total);
    }
}

/* One task: one head of one batch entry, QUERIES_PER_TASK queries. */
static TARGET void NAME(forward)(const problem *p, int64_t task, char *memory) {
    const int64_t Q = p->queries, M = p->heads, D = p->channels, P = p->points;
    const int64_t chunk = task % p->chunks, m = task / p->chunks % M, b = task / p->chunks / M;
    const int64_t end = (chunk + 1) * QUERIES_PER_TASK < Q ? (chunk + 1) * QUERIES_PER_TASK : Q;
    const ELEMENT *value = (const ELEMENT *)p->value + (b * p->pixels * M + m) * D;
    const int64_t level_step = QUERIES_PER_BLOCK * P * 4;
    NAME(scratch) s;
    NAME(divide)(&s, memory, QUERIES_PER_BLOCK * P, QUERIES_PER_BLOCK * P * p->levels);
    for (int64_t first = chunk * QUERIES_PER_TASK; first < end; first += QUERIES_PER_BLOCK) {
        const int64_t n = end - first < QUERIES_PER_BLOCK ? end - first : QUERIES_PER_BLOCK;
        const int64_t row = (b * Q + first) * M + m;
        for (int64_t l = 0; l < p->levels; l++) {
            NAME(gather)(p, row, n, l, s.x, s.y, s.attention);
            NAME(corners)(&s, n * P, (int32_t)p->shapes[2 * l], (int32_t)p->shapes[2 * l + 1], (int32_t)p->starts[l],
                          s.pixel + l * level_step, s.corner + l * level_step);
        }
        for (int64_t q = 0; q < n; q++) {
            ELEMENT *out = (ELEMENT *)p->output + (row + q * M) * D;
            const int32_t *pixel = s.pixel + q * P * 4;
            const REAL *corner = s.corner + q * P * 4;
            if (D == 32) /* the published models' size gets loops of constant length */
                NAME(forward_channels)(p, 32, value, pixel, corner, level_step, out);
            else
                NAME(forward_channels)(p, D, value, pixel, corner, level_step, out);
        }
    }
}

/* ---- backward ---- */

/* dot[k] = sum over lanes of v[k]. */
INLINE void NAME(sum_lanes)(const VECTOR *v, REAL *dot) {
#if HAS_SHUFFLE && VECTOR_BYTES > 16 && REAL_IS_FLOAT
    /* Transposing 4x4 blocks while adding: 8 shuffles for four sums instead of 16. */
#if VECTOR_BYTES == 64
#define EACH(a, b, c, d) \
    a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12
#else
#define EACH(a, b, c, d) a, b, c, d, a + 4, b + 4, c + 4, d + 4
#endif
#define SECOND (VECTOR_BYTES / 4) /* index of the first lane of the second operand */
    VECTOR ab = __builtin_shufflevector(v[0], v[1], EACH(0, SECOND, 1, SECOND + 1)) +
                __builtin_shufflevector(v[0], v[1], EACH(2, SECOND + 2, 3, SECOND + 3));
    VECTOR cd = __builtin_shufflevector(v[2], v[3], EACH(0, SECOND, 1, SECOND + 1)) +
                __builtin_shufflevector(v[2], v[3], EACH(2, SECOND + 2, 3, SECOND + 3));
    VECTOR all = __builtin_shufflevector(ab, cd, EACH(0, 1, SECOND, SECOND + 1)) +
                 __builtin_shufflevector(ab, cd, EACH(2, 3, SECOND + 2, SECOND + 3));
#if VECTOR_BYTES == 64
    typedef float eight __attribute__((vector_size(32)));
    eight half = __builtin_shufflevector(all, all, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(all, all, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    VECTOR half = all;
#endif
    typedef float four __attribute__((vector_size(16)));
    four total = __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
    memcpy(dot, &total, sizeof total);
#undef EACH
#undef SECOND
#else
    for (int k = 0; k < 4; k++) {
        REAL total = 0;
        for (int i = 0; i < VL; i++)
            total += v[k][i];
        dot[k] = total;
    }
#endif
}

/* One sample: adds to the gradient of its four corners, and gives their products with the output gradient. */
INLINE void NAME(backward_channels)(int64_t channels, int64_t stride, const ELEMENT *value, REAL *grad_value,
                                    const ELEMENT *grad_output, const int32_t *pixel, const REAL *corner, REAL *dot) {
    VECTOR sums[4] = {{0}};
    int64_t c = 0;
    for (int k = 0; k < 4; k++) {
        const ELEMENT *v = value + pixel[k] * stride;
        REAL *g = grad_value + pixel[k] * stride;
        const REAL weight = corner[k];
        for (c = 0; c + VL <= channels; c += VL) {
            VECTOR output, pixel_value, gradient;
            NAME(read)(&output, grad_output + c);
            NAME(read)(&pixel_value, v + c);
            sums[k] += output * pixel_value;
            memcpy(&gradient, g + c, sizeof gradient);
            gradient += weight * output;
            memcpy(g + c, &gradient, sizeof gradient);
        }
    }
    NAME(sum_lanes)(sums, dot);
    for (; c < channels; c++) {
        REAL output = NAME(read_one)(grad_output + c);
        for (int k = 0; k < 4; k++) {
            dot[k] += output * NAME(read_one)(value + pixel[k] * stride + c);
            grad_value[pixel[k] * stride + c] += corner[k] * output;
        }
    }
}

/* With dots d, attention a and bilinear weights (y0 + y1)(x0 + x1): the derivative by a is the bilinear sum of d; by x
 * it is W a times the same sum with x0, x1 replaced by -1, 1 where inside; by y likewise. `attention` turns into its
 * gradient. */
APART void NAME(derivatives)(int64_t n, REAL height, REAL width, const REAL *restrict dot, const REAL *restrict y0,
                             const REAL *restrict y1, const REAL *restrict x0, const REAL *restrict x1,
                             const REAL *restrict top, const REAL *restrict bottom, const REAL *restrict left,
                             const REAL *restrict right, REAL *restrict attention, REAL *restrict grad_y,
                             REAL *restrict grad_x) {
    for (int64_t i = 0; i < n; i++) {
        const REAL d00 = dot[4 * i], d01 = dot[4 * i + 1], d10 = dot[4 * i + 2], d11 = dot[4 * i + 3];
        const REAL a = attention[i];
        attention[i] = y0[i] * (x0[i] * d00 + x1[i] * d01) + y1[i] * (x0[i] * d10 + x1[i] * d11);
        grad_y[i] = height * a * (x0[i] * (bottom[i] * d10 - top[i] * d00) + x1[i] * (bottom[i] * d11 - top[i] * d01));
        grad_x[i] = width * a * (y0[i] * (right[i] * d01 - left[i] * d00) + y1[i] * (right[i] * d11 - left[i] * d10));
    }
}

/* One task: one level of one head of one batch entry, all queries. Nothing that another task writes is touched, and
 * the order of additions does not depend on threads: no races, and equal results for any number of threads. */
static TARGET void NAME(backward)(const problem *p, int64_t task, char *memory) {
    const int64_t Q = p->queries, M = p->heads, D = p->channels, L = p->levels, P = p->points;
    const int64_t l = task % L, m = task / L % M, b = task / L / M;
    const int64_t base = (b * p->pixels * M + m) * D, stride = M * D;
    const ELEMENT *value = (const ELEMENT *)p->value + base;
    REAL *grad_value = (REAL *)p->grad_value + base;
    const int32_t height = (int32_t)p->shapes[2 * l], width = (int32_t)p->shapes[2 * l + 1];
    NAME(scratch) s;
    NAME(divide)(&s, memory, QUERIES_PER_BLOCK * P, QUERIES_PER_BLOCK * P * L);
    for (int64_t first = 0; first < Q; first += QUERIES_PER_BLOCK) {
        const int64_t queries = Q - first < QUERIES_PER_BLOCK ? Q - first : QUERIES_PER_BLOCK, n = queries * P;
        const int64_t row = (b * Q + first) * M + m;
        NAME(gather)(p, row, queries, l, s.x, s.y, s.attention);
        NAME(corners)(&s, n, height, width, (int32_t)p->starts[l], s.pixel, s.corner);
        for (int64_t q = 0; q < queries; q++) {
            const ELEMENT *grad_output = (const ELEMENT *)p->grad_output + (row + q * M) * D;
            for (int64_t i = q * P; i < (q + 1) * P; i++) {
                if (D == 32)
                    NAME(backward_channels)(32, stride, value, grad_value, grad_output, s.pixel + 4 * i,
                                            s.corner + 4 * i, s.dot + 4 * i);
                else
                    NAME(backward_channels)(D, stride, value, grad_value, grad_output, s.pixel + 4 * i,
                                            s.corner + 4 * i, s.dot + 4 * i);
            }
        }
        /* The gathered inputs are not needed any more, so their arrays take the results. */
        NAME(derivatives)(n, (REAL)height, (REAL)width, s.dot, s.weight_y0, s.weight_y1, s.weight_x0, s.weight_x1,
                          s.inside_y0, s.inside_y1, s.inside_x0, s.inside_x1, s.attention, s.y, s.x);
        for (int64_t q = 0; q < queries; q++) {
            const int64_t at = (row + q * M) * L * P + l * P;
            for (int64_t i = 0; i < P; i++) {
                ((REAL *)p->grad_locations)[2 * (at + i)] = s.x[q * P + i];
                ((REAL *)p->grad_locations)[2 * (at + i) + 1] = s.y[q * P + i];
                ((REAL *)p->grad_weights)[at + i] = s.attention[q * P + i];
            }
        }
    }
}

#undef VL
#undef VECTOR
#undef INLINE
#undef APART
