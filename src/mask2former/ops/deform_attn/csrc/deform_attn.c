/* Multi-scale deformable sampling on a CPU: forward and backward, in plain C with a C interface.
 *
 * No Python, no torch: the caller passes pointers to contiguous arrays, sizes and the number of threads. Compiled
 * once per instruction set by function attributes and chosen at run time, so a build is good for every processor of
 * its architecture. The arithmetic is in kernel.h; layouts are those of reference.py:
 *
 *   value (B, S, M, D)    locations (B, Q, M, L, P, 2)    weights (B, Q, M, L, P)    output (B, Q, M, D)
 *
 *   projected (B, S, M*L*P*2 + M*L*P): of a query that is a pixel the offsets (M, L, P, 2) in pixels, and the logits
 *   (M, L, P) whose softmax over levels and points are the weights
 *
 * value, projected, output and its gradient are float, double, or bf16 as 16-bit words; locations, weights and all other
 * gradients are float (double for double).
 */

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__GNUC__)
#error "needs the vector extensions of gcc or clang"
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE 1
#endif
#endif
#ifndef HAS_SHUFFLE
#define HAS_SHUFFLE 0
#endif

#define QUERIES_PER_BLOCK 32 /* corners of a block of samples stay in the first-level cache */
#define QUERIES_PER_TASK 128

typedef struct {
    int64_t batch, pixels, queries, heads, channels, levels, points, chunks;
    const int64_t *shapes; /* (levels, 2): height, width */
    const int64_t *starts; /* (levels,): first pixel of each level */
    const void *value, *locations, *weights, *projected, *grad_output;
    void *output, *grad_value, *grad_locations, *grad_weights;
} problem;

#define JOIN3_(a, b, c) a##_##b##_##c
#define JOIN3(a, b, c) JOIN3_(a, b, c)
#define NAME(x) JOIN3(x, TYPE_SUFFIX, ISA_SUFFIX)

/* ---- one set of functions per instruction set ---- */

#define ISA_SUFFIX baseline
#define TARGET
#define VECTOR_BYTES 16
#include "types.h"
#undef ISA_SUFFIX
#undef TARGET
#undef VECTOR_BYTES

#if defined(__x86_64__)
#define ISA_SUFFIX avx2
#define TARGET __attribute__((target("avx2,fma")))
#define VECTOR_BYTES 32
#include "types.h"
#undef ISA_SUFFIX
#undef TARGET
#undef VECTOR_BYTES

#define ISA_SUFFIX avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define VECTOR_BYTES 64
#include "types.h"
#undef ISA_SUFFIX
#undef TARGET
#undef VECTOR_BYTES
#endif

typedef void (*task_function)(const problem *, int64_t task, char *memory);

enum { FORWARD, PROJECTED, BACKWARD };

/* [instruction set][element type: float, double, bf16][as above] */
#define ELEMENT_ROW(element, isa) {forward_##element##_##isa, projected_##element##_##isa, backward_##element##_##isa}
#define ROW(isa) {ELEMENT_ROW(f32, isa), ELEMENT_ROW(f64, isa), ELEMENT_ROW(bf16, isa)}
static const task_function functions[][3][3] = {
    ROW(baseline),
#if defined(__x86_64__)
    ROW(avx2), ROW(avx512),
#endif
};

/* Number of instruction sets, counted from the baseline, that this processor can run. */
int deform_attn_levels(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq"))
        return 2;
    return 3;
#else
    return 1;
#endif
}

/* ---- threads ---- */

typedef struct {
    const problem *p;
    task_function function;
    int64_t tasks, *next;
    char *memory;
} worker;

static void *work(void *argument) {
    const worker *w = argument;
    for (;;) {
        int64_t task = __atomic_fetch_add(w->next, 1, __ATOMIC_RELAXED);
        if (task >= w->tasks)
            return NULL;
        w->function(w->p, task, w->memory);
    }
}

/* Threads are made for the call and end with it: that costs some 20 us each, and there is no second pool that
 * spins beside torch's, nothing to survive a fork, and no OpenMP runtime to be found at import. */
static int run(const problem *p, int function_index, int element, int level, int64_t tasks, int threads) {
    const int available = deform_attn_levels(), last = available - 1;
    const task_function function = functions[level < 0 || level > last ? last : level][element][function_index];
    /* What divide() in kernel.h hands out. */
    const int64_t samples = QUERIES_PER_BLOCK * p->points;
    const size_t size = (size_t)(samples * (10 * 8 + 4 * 4 + 32) + samples * p->levels * 56 + QUERIES_PER_BLOCK * 16);
    int64_t next = 0;
    if (tasks <= 0)
        return 0;
    if (threads > tasks)
        threads = (int)tasks;
    if (threads < 1)
        threads = 1;
    char *memory = malloc(size * (size_t)threads);
    worker *workers = malloc(sizeof *workers * (size_t)threads);
    pthread_t *handles = malloc(sizeof *handles * (size_t)threads);
    if (!memory || !workers || !handles) {
        free(memory), free(workers), free(handles);
        return 1;
    }
    int started = 0;
    for (int i = 0; i < threads; i++)
        workers[i] = (worker){p, function, tasks, &next, memory + size * (size_t)i};
    /* The caller is worker 0. Where the system gives fewer threads, those that run do all the tasks. */
    for (int i = 1; i < threads; i++, started++)
        if (pthread_create(&handles[i], NULL, work, &workers[i]))
            break;
    work(&workers[0]);
    for (int i = 1; i <= started; i++)
        pthread_join(handles[i], NULL);
    free(memory), free(workers), free(handles);
    return 0;
}

/* ---- interface; returns 0, or 1 when memory ran out ----
 * sizes: batch, pixels, queries, heads, channels, levels, points. element: 0 float, 1 double, 2 bf16.
 * level: instruction set counted from the baseline, negative for the best. */

static problem describe(const int64_t *sizes, const int64_t *shapes, const int64_t *starts) {
    problem p = {.batch = sizes[0], .pixels = sizes[1], .queries = sizes[2], .heads = sizes[3], .channels = sizes[4],
                 .levels = sizes[5], .points = sizes[6], .shapes = shapes, .starts = starts};
    p.chunks = (p.queries + QUERIES_PER_TASK - 1) / QUERIES_PER_TASK;
    return p;
}

int deform_attn_forward(const int64_t *sizes, const int64_t *shapes, const int64_t *starts, int element, int level,
                        int threads, const void *value, const void *locations, const void *weights, void *output) {
    problem p = describe(sizes, shapes, starts);
    p.value = value, p.locations = locations, p.weights = weights, p.output = output;
    return run(&p, FORWARD, element, level, p.batch * p.chunks, threads);
}

/* Queries are the pixels. */
int deform_attn_projected(const int64_t *sizes, const int64_t *shapes, const int64_t *starts, int element, int level,
                          int threads, const void *value, const void *projected, void *output) {
    problem p = describe(sizes, shapes, starts);
    p.value = value, p.projected = projected, p.output = output;
    return run(&p, PROJECTED, element, level, p.batch * p.chunks, threads);
}

/* grad_value must be zero on entry. */
int deform_attn_backward(const int64_t *sizes, const int64_t *shapes, const int64_t *starts, int element, int level,
                         int threads, const void *grad_output, const void *value, const void *locations,
                         const void *weights, void *grad_value, void *grad_locations, void *grad_weights) {
    problem p = describe(sizes, shapes, starts);
    p.grad_output = grad_output, p.value = value, p.locations = locations, p.weights = weights;
    p.grad_value = grad_value, p.grad_locations = grad_locations, p.grad_weights = grad_weights;
    return run(&p, BACKWARD, element, level, p.batch * p.heads * p.levels, threads);
}
