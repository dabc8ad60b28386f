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

#if REAL_IS_FLOAT
#define WORD uint32_t
#define SIGNED int32_t
#else
#define WORD uint64_t
#define SIGNED int64_t
#endif
#define WORDS NAME(words) /* the bits of a VECTOR */
#define INTEGERS NAME(integers) /* what comparing two VECTORs gives: -1 or 0 */
typedef WORD WORDS __attribute__((vector_size(VECTOR_BYTES)));
typedef SIGNED INTEGERS __attribute__((vector_size(VECTOR_BYTES)));

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
    half_words packed;
    memcpy(&packed, p, sizeof packed);
    *out = (VECTOR)(__builtin_convertvector(packed, WORDS) << 16);
#else
    memcpy(out, p, sizeof *out);
#endif
}

#if IS_BF16
/* As write_one, for each lane; the result is in the lower half of each word. */
INLINE void NAME(round)(WORDS *out, const VECTOR *x) {
    const WORDS bits = (WORDS)*x, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const WORDS not_a_number = (WORDS)((INTEGERS)(bits & 0x7fffffffu) > 0x7f800000);
    *out = (rounded & ~not_a_number) | (0x7fc0u & not_a_number);
}
#endif

/* A group is what one load of a whole vector of elements gives: of bf16 two vectors, of even and of odd channels (a
 * shift and a mask, where widening in order would move lanes), else one. `in_order` takes half as many elements of
 * bf16, for the end of a row that is no multiple of whole groups. */
#define GROUP (IS_BF16 ? 2 : 1)

INLINE void NAME(read_group)(VECTOR *out, const ELEMENT *p, int in_order) {
#if IS_BF16
    if (!in_order) {
        WORDS pairs;
        memcpy(&pairs, p, sizeof pairs);
        out[0] = (VECTOR)(pairs << 16);
        out[1] = (VECTOR)(pairs & 0xffff0000u);
        return;
    }
#endif
    (void)in_order;
    NAME(read)(out, p);
}

INLINE void NAME(write_group)(ELEMENT *p, const VECTOR *x, int in_order) {
#if IS_BF16
    WORDS first, second;
    NAME(round)(&first, x);
    if (in_order) {
        typedef uint16_t half_words __attribute__((vector_size(VECTOR_BYTES / 2)));
        const half_words packed = __builtin_convertvector(first, half_words);
        memcpy(p, &packed, sizeof packed);
        return;
    }
    NAME(round)(&second, x + 1);
    first |= second << 16;
    memcpy(p, &first, sizeof first);
#else
    (void)in_order;
    memcpy(p, x, sizeof *x);
#endif
}

/* ---- geometry ---- */

/* Neighbours of n coordinates along one axis of `size` pixels: clamped indices, and linear weights that are zero for
 * a neighbour outside. Coordinates times `scale` are in pixels from the edge. `inside0/1` (0 or 1) is what the
 * derivative of the weights needs. */
APART void NAME(neighbours)(int64_t n, int32_t size, REAL scale, const REAL *restrict coordinates,
                             int32_t *restrict index0, int32_t *restrict index1, REAL *restrict weight0,
                             REAL *restrict weight1, REAL *restrict inside0, REAL *restrict inside1) {
    const REAL low = -2, high = (REAL)size + 1;
    for (int64_t i = 0; i < n; i++) {
        REAL x = coordinates[i] * scale - (REAL)0.5;
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

typedef struct {
    REAL *x, *y; /* of one level */
    int32_t *row0, *row1, *column0, *column1;
    REAL *weight_y0, *weight_y1, *weight_x0, *weight_x1;
    REAL *inside_y0, *inside_y1, *inside_x0, *inside_x1;
    REAL *dot;       /* (samples of one level, 4): output gradient times corner */
    REAL *attention; /* of all levels, as all below */
    int32_t *pixel;  /* (4, samples): corner's index in the concatenated levels */
    REAL *corner;    /* (4, samples): bilinear times attention weight */
    REAL *centre_x, *centre_y; /* (queries,): normalised position of a query that is a pixel */
} NAME(scratch);

/* Samples of a block are in the order (level, point, query), so that arithmetic that differs between levels and points,
 * or goes over both, is arithmetic of whole vectors. */
INLINE void NAME(divide)(NAME(scratch) * s, const problem *p, char *memory) {
    const int64_t samples = QUERIES_PER_BLOCK * p->points, all = samples * p->levels;
    REAL **reals[] = {&s->x, &s->y, &s->weight_y0, &s->weight_y1, &s->weight_x0, &s->weight_x1,
                      &s->inside_y0, &s->inside_y1, &s->inside_x0, &s->inside_x1};
    int32_t **ints[] = {&s->row0, &s->row1, &s->column0, &s->column1};
    for (unsigned i = 0; i < sizeof reals / sizeof *reals; i++, memory += samples * 8)
        *reals[i] = (REAL *)memory;
    for (unsigned i = 0; i < sizeof ints / sizeof *ints; i++, memory += samples * 4)
        *ints[i] = (int32_t *)memory;
    s->dot = (REAL *)memory, memory += samples * 32;
    s->centre_x = (REAL *)memory, memory += QUERIES_PER_BLOCK * 8;
    s->centre_y = (REAL *)memory, memory += QUERIES_PER_BLOCK * 8;
    s->attention = (REAL *)memory, memory += all * 8;
    s->pixel = (int32_t *)memory, memory += all * 16;
    s->corner = (REAL *)memory;
}

/* Takes one head's samples of one level, for `queries` queries, out of the interleaved arrays. */
INLINE void NAME(gather)(const problem *p, int64_t first_row, int64_t queries, int64_t level, REAL *restrict x,
                         REAL *restrict y, REAL *restrict attention) {
    const int64_t P = p->points, per_row = p->levels * P;
    const REAL *locations = (const REAL *)p->locations + (first_row * per_row + level * P) * 2;
    const REAL *weights = (const REAL *)p->weights + first_row * per_row + level * P;
    for (int64_t q = 0; q < queries; q++) {
        for (int64_t i = 0; i < P; i++) {
            x[i * queries + q] = locations[2 * i];
            y[i * queries + q] = locations[2 * i + 1];
            attention[i * queries + q] = weights[i];
        }
        locations += p->heads * per_row * 2;
        weights += p->heads * per_row;
    }
}

/* One corner of n samples. */
APART void NAME(combine)(int64_t n, const int32_t *restrict row, const int32_t *restrict column,
                         const REAL *restrict weight_y, const REAL *restrict weight_x, const REAL *restrict attention,
                         int32_t start, int32_t width, int32_t *restrict pixel, REAL *restrict corner) {
    for (int64_t i = 0; i < n; i++) {
        pixel[i] = start + row[i] * width + column[i];
        corner[i] = attention[i] * weight_y[i] * weight_x[i];
    }
}

/* From gathered coordinates, which times the scales are in pixels, to the corners' pixels and weights of one level;
 * `plane` is the distance between the arrays of two corners. */
INLINE void NAME(corners)(NAME(scratch) * s, int64_t n, int32_t height, int32_t width, REAL scale_y, REAL scale_x,
                          int32_t start, const REAL *restrict a, int64_t plane, int32_t *restrict pixel,
                          REAL *restrict corner) {
    NAME(neighbours)(n, width, scale_x, s->x, s->column0, s->column1, s->weight_x0, s->weight_x1,
                     s->inside_x0, s->inside_x1);
    NAME(neighbours)(n, height, scale_y, s->y, s->row0, s->row1, s->weight_y0, s->weight_y1,
                     s->inside_y0, s->inside_y1);
    NAME(combine)(n, s->row0, s->column0, s->weight_y0, s->weight_x0, a, start, width, pixel, corner);
    NAME(combine)(n, s->row0, s->column1, s->weight_y0, s->weight_x1, a, start, width, pixel + plane, corner + plane);
    NAME(combine)(n, s->row1, s->column0, s->weight_y1, s->weight_x0, a, start, width, pixel + 2 * plane,
                  corner + 2 * plane);
    NAME(combine)(n, s->row1, s->column1, s->weight_y1, s->weight_x1, a, start, width, pixel + 3 * plane,
                  corner + 3 * plane);
}

/* ---- projected self-attention ---- */

/* Elements of a projection: of each query the offsets (M, L, P, 2) in pixels, then the logits (M, L, P). */

/* exp in place for n numbers, none above 0, and for those after them to the end of a vector; 0 below e^lowest.
 * 2^k e^f with |f| <= ln(2)/2, and e^f by its series: the first term left out is below half a unit in the last place. */
INLINE void NAME(exponentials)(int64_t n, REAL *numbers) {
#if REAL_IS_FLOAT
#define CONSTANT(single, twice) single
#else
#define CONSTANT(single, twice) twice
#endif
    const REAL per_ln2 = CONSTANT(0x1.715476p+0f, 0x1.71547652b82fep+0);
    /* ln(2) in two parts, of which k times the first is exact. */
    const REAL ln2 = CONSTANT(0x1.62ep-1f, 0x1.62e42fee00000p-1), rest = CONSTANT(0x1.0bfbe8p-15f, 0x1.a39ef35793c76p-33);
    const REAL to_integer = CONSTANT(0x1.8p+23f, 0x1.8p+52); /* once added, the last bits are the rounded integer */
    const REAL lowest = CONSTANT(-87, -708);
    for (int64_t i = 0; i < n; i += VL) {
        VECTOR x;
        memcpy(&x, numbers + i, sizeof x);
        const VECTOR shifted = x * per_ln2 + to_integer, k = shifted - to_integer;
        const VECTOR f = x - k * ln2 - k * rest;
        VECTOR sum = {0};
        for (int degree = CONSTANT(7, 13); degree > 0; degree--) /* 1 + f/1 (1 + f/2 (1 + f/3 ... */
            sum = (sum + 1) * f * ((REAL)1 / (REAL)degree);
        const WORDS power = ((WORDS)shifted + CONSTANT(127u, 1023u)) << CONSTANT(23, 52);
        const VECTOR result = (sum + 1) * (VECTOR)power;
        const WORDS kept = (WORDS)result & ~(WORDS)(x < lowest); /* NaN stays */
        memcpy(numbers + i, &kept, sizeof kept);
    }
#undef CONSTANT
}

/* Softmax over the first axis of (samples, n), in place. */
APART void NAME(softmax)(int64_t samples, int64_t n, REAL *restrict logits, REAL *restrict most,
                         REAL *restrict total) {
    for (int64_t q = 0; q < n; q++)
        most[q] = logits[q], total[q] = 0;
    for (int64_t i = 1; i < samples; i++)
        for (int64_t q = 0; q < n; q++)
            most[q] = most[q] > logits[i * n + q] ? most[q] : logits[i * n + q];
    for (int64_t i = 0; i < samples; i++)
        for (int64_t q = 0; q < n; q++)
            logits[i * n + q] -= most[q];
    NAME(exponentials)(samples * n, logits);
    for (int64_t i = 0; i < samples; i++)
        for (int64_t q = 0; q < n; q++)
            total[q] += logits[i * n + q];
    for (int64_t q = 0; q < n; q++)
        total[q] = 1 / total[q];
    for (int64_t i = 0; i < samples; i++)
        for (int64_t q = 0; q < n; q++)
            logits[i * n + q] *= total[q];
}

/* Normalised positions of n pixels of the concatenated levels, from `first` on. */
INLINE void NAME(centres)(const problem *p, int64_t first, int64_t n, REAL *restrict x, REAL *restrict y) {
    int64_t level = p->levels - 1;
    while (p->starts[level] > first)
        level--;
    for (int64_t q = 0; q < n; q++) {
        while (level + 1 < p->levels && p->starts[level + 1] <= first + q)
            level++;
        const int64_t height = p->shapes[2 * level], width = p->shapes[2 * level + 1];
        const int64_t pixel = first + q - p->starts[level];
        x[q] = ((REAL)(pixel % width) + (REAL)0.5) / (REAL)width;
        y[q] = ((REAL)(pixel / width) + (REAL)0.5) / (REAL)height;
    }
}

/* Moves `count` elements of each of n rows into columns. */
INLINE void NAME(transpose)(int64_t n, int64_t count, int64_t row, const ELEMENT *restrict from, REAL *restrict to) {
    for (int64_t q = 0; q < n; q++, from += row)
        for (int64_t i = 0; i < count; i++)
            to[i * n + q] = NAME(read_one)(from + i);
}

/* Sampling positions of one level in pixels, from offsets that interleave x and y. */
INLINE void NAME(positions)(const NAME(scratch) * s, int64_t n, int64_t points, int64_t row,
                            const ELEMENT *restrict offsets, REAL height, REAL width) {
    REAL *restrict x = s->x, *restrict y = s->y;
    const REAL *restrict centre_x = s->centre_x, *restrict centre_y = s->centre_y;
    for (int64_t q = 0; q < n; q++, offsets += row)
        for (int64_t i = 0; i < points; i++) {
            x[i * n + q] = centre_x[q] * width + NAME(read_one)(offsets + 2 * i);
            y[i * n + q] = centre_y[q] * height + NAME(read_one)(offsets + 2 * i + 1);
        }
}

/* ---- forward ---- */

/* Weighted sum of all corners of one query, for `count` (a constant) groups of channels. */
INLINE void NAME(sum_channels)(int count, int in_order, int64_t samples, int64_t step, int64_t plane, int64_t stride,
                               const ELEMENT *value, const int32_t *pixel, const REAL *corner, ELEMENT *out) {
    const int vectors = count * (in_order ? 1 : GROUP), group = in_order ? 1 : GROUP;
    VECTOR even[4] = {{0}}, odd[4] = {{0}}; /* two chains of additions hide their latency */
    for (int64_t i = 0; i < samples; i++, pixel += step, corner += step) {
        for (int k = 0; k < 4; k += 2) {
            const ELEMENT *a = value + pixel[k * plane] * stride, *b = value + pixel[(k + 1) * plane] * stride;
            const REAL weight_a = corner[k * plane], weight_b = corner[(k + 1) * plane];
            for (int v = 0; v < vectors; v += group) {
                VECTOR va[GROUP], vb[GROUP];
                NAME(read_group)(va, a + v * VL, in_order);
                NAME(read_group)(vb, b + v * VL, in_order);
                for (int g = 0; g < group; g++) {
                    even[v + g] += weight_a * va[g];
                    odd[v + g] += weight_b * vb[g];
                }
            }
        }
    }
    for (int v = 0; v < vectors; v += group) {
        for (int g = 0; g < group; g++)
            even[v + g] += odd[v + g];
        NAME(write_group)(out + v * VL, even + v, in_order);
    }
}

INLINE void NAME(forward_channels)(int64_t channels, int64_t samples, int64_t step, int64_t plane, int64_t stride,
                                   const ELEMENT *value, const int32_t *pixel, const REAL *corner, ELEMENT *out) {
    int64_t c = 0;
    for (; c + 4 * VL <= channels; c += 4 * VL)
        NAME(sum_channels)(4 / GROUP, 0, samples, step, plane, stride, value + c, pixel, corner, out + c);
    for (; c + 2 * VL <= channels; c += 2 * VL)
        NAME(sum_channels)(2 / GROUP, 0, samples, step, plane, stride, value + c, pixel, corner, out + c);
    for (; c + VL <= channels; c += VL)
        NAME(sum_channels)(1, 1, samples, step, plane, stride, value + c, pixel, corner, out + c);
    for (; c < channels; c++) {
        REAL total = 0;
        for (int64_t i = 0; i < samples; i++)
            for (int k = 0; k < 4; k++)
                total += corner[i * step + k * plane] *
                         NAME(read_one)(value + pixel[i * step + k * plane] * stride + c);
        NAME(write_one)(out + c, total);
    }
}

/* One task: all heads of QUERIES_PER_TASK queries of one batch entry. */
INLINE void NAME(forward_task)(const problem *p, int64_t task, char *memory, int projected) {
    const int64_t Q = p->queries, M = p->heads, D = p->channels, L = p->levels, P = p->points;
    const int64_t b = task / p->chunks, begin = task % p->chunks * QUERIES_PER_TASK;
    const int64_t end = begin + QUERIES_PER_TASK < Q ? begin + QUERIES_PER_TASK : Q;
    const int64_t plane = QUERIES_PER_BLOCK * L * P, row = M * L * P * 3, stride = M * D;
    NAME(scratch) s;
    NAME(divide)(&s, p, memory);
    for (int64_t first = begin; first < end; first += QUERIES_PER_BLOCK) {
        const int64_t n = end - first < QUERIES_PER_BLOCK ? end - first : QUERIES_PER_BLOCK;
        if (projected)
            NAME(centres)(p, first, n, s.centre_x, s.centre_y);
        for (int64_t m = 0; m < M; m++) {
            const ELEMENT *value = (const ELEMENT *)p->value + (b * p->pixels * M + m) * D;
            const ELEMENT *offsets = (const ELEMENT *)p->projected + (b * Q + first) * row + m * L * P * 2;
            if (projected) {
                NAME(transpose)(n, L * P, row, offsets + (2 * M - m) * L * P, s.attention);
                NAME(softmax)(L * P, n, s.attention, s.x, s.y);
            }
            for (int64_t l = 0; l < L; l++) {
                const int32_t height = (int32_t)p->shapes[2 * l], width = (int32_t)p->shapes[2 * l + 1];
                const int64_t at = l * P * n;
                if (projected)
                    NAME(positions)(&s, n, P, row, offsets + l * P * 2, (REAL)height, (REAL)width);
                else
                    NAME(gather)(p, (b * Q + first) * M + m, n, l, s.x, s.y, s.attention + at);
                NAME(corners)(&s, n * P, height, width, projected ? 1 : (REAL)height, projected ? 1 : (REAL)width,
                              (int32_t)p->starts[l], s.attention + at, plane, s.pixel + at, s.corner + at);
            }
            for (int64_t q = 0; q < n; q++) {
                ELEMENT *out = (ELEMENT *)p->output + ((b * Q + first + q) * M + m) * D;
                if (D == 32) /* the published models' size gets loops of constant length */
                    NAME(forward_channels)(32, L * P, n, plane, stride, value, s.pixel + q, s.corner + q, out);
                else
                    NAME(forward_channels)(D, L * P, n, plane, stride, value, s.pixel + q, s.corner + q, out);
            }
        }
    }
}

static TARGET void NAME(forward)(const problem *p, int64_t task, char *memory) {
    NAME(forward_task)(p, task, memory, 0);
}

static TARGET void NAME(projected)(const problem *p, int64_t task, char *memory) {
    NAME(forward_task)(p, task, memory, 1);
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
INLINE void NAME(backward_channels)(int64_t channels, int64_t stride, int64_t plane, const ELEMENT *value,
                                    REAL *grad_value, const ELEMENT *grad_output, const int32_t *pixel,
                                    const REAL *corner, REAL *dot) {
    VECTOR sums[4] = {{0}};
    int64_t c = 0;
    for (int k = 0; k < 4; k++) {
        const ELEMENT *v = value + pixel[k * plane] * stride;
        REAL *g = grad_value + pixel[k * plane] * stride;
        const REAL weight = corner[k * plane];
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
            dot[k] += output * NAME(read_one)(value + pixel[k * plane] * stride + c);
            grad_value[pixel[k * plane] * stride + c] += corner[k * plane] * output;
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
    const int64_t plane = QUERIES_PER_BLOCK * P;
    NAME(scratch) s;
    NAME(divide)(&s, p, memory);
    for (int64_t first = 0; first < Q; first += QUERIES_PER_BLOCK) {
        const int64_t queries = Q - first < QUERIES_PER_BLOCK ? Q - first : QUERIES_PER_BLOCK, n = queries * P;
        const int64_t row = (b * Q + first) * M + m;
        NAME(gather)(p, row, queries, l, s.x, s.y, s.attention);
        NAME(corners)(&s, n, height, width, (REAL)height, (REAL)width, (int32_t)p->starts[l], s.attention, plane,
                      s.pixel, s.corner);
        for (int64_t q = 0; q < queries; q++) {
            const ELEMENT *grad_output = (const ELEMENT *)p->grad_output + (row + q * M) * D;
            for (int64_t i = q; i < n; i += queries) {
                if (D == 32)
                    NAME(backward_channels)(32, stride, plane, value, grad_value, grad_output, s.pixel + i,
                                            s.corner + i, s.dot + 4 * i);
                else
                    NAME(backward_channels)(D, stride, plane, value, grad_value, grad_output, s.pixel + i,
                                            s.corner + i, s.dot + 4 * i);
            }
        }
        /* The gathered inputs are not needed any more, so their arrays take the results. */
        NAME(derivatives)(n, (REAL)height, (REAL)width, s.dot, s.weight_y0, s.weight_y1, s.weight_x0, s.weight_x1,
                          s.inside_y0, s.inside_y1, s.inside_x0, s.inside_x1, s.attention, s.y, s.x);
        for (int64_t q = 0; q < queries; q++) {
            const int64_t at = (row + q * M) * L * P + l * P;
            for (int64_t i = 0; i < P; i++) {
                ((REAL *)p->grad_locations)[2 * (at + i)] = s.x[i * queries + q];
                ((REAL *)p->grad_locations)[2 * (at + i) + 1] = s.y[i * queries + q];
                ((REAL *)p->grad_weights)[at + i] = s.attention[i * queries + q];
            }
        }
    }
}

#undef VL
#undef VECTOR
#undef WORD
#undef WORDS
#undef SIGNED
#undef INTEGERS
#undef GROUP
#undef INLINE
#undef APART
