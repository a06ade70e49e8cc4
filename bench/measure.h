/* SPDX-License-Identifier: Apache-2.0 (part of Onion Gateway, see LICENSE) */
/* A clock, and percentiles of many measurements. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

typedef struct {
    float *v;
    size_t n, cap;
} vec;

static inline void add(vec *v, double x) {
    if (v->n == v->cap) {
        if (v->cap > 20000000) return;
        v->cap = v->cap ? v->cap * 2 : 65536;
        v->v = realloc(v->v, v->cap * sizeof(float));
    }
    v->v[v->n++] = x;
}
static inline int cmp(const void *a, const void *b) {
    float x = *(float *)a, y = *(float *)b;
    return x < y ? -1 : x > y;
}
static inline double q(vec *v, double p) { return v->n ? v->v[(size_t)(p * (v->n - 1))] : 0; }
static inline void show(const char *name, vec *v) {
    double s = 0;
    for (size_t i = 0; i < v->n; i++) s += v->v[i];
    qsort(v->v, v->n, sizeof(float), cmp);
    printf(",\"%s\":{\"n\":%zu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", name,
           v->n, v->n ? s / v->n : 0, q(v, .5), q(v, .9), q(v, .99), q(v, .999), q(v, 1));
}
