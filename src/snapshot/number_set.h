/* number_set.h - a set of 64-bit numbers, 16 bytes a member or less. Not thread safe. */
#ifndef WK_SNAPSHOT_NUMBER_SET_H
#define WK_SNAPSHOT_NUMBER_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct number_set {
    uint64_t *slots; /* 0 = free */
    size_t count, cap;
    bool has_zero;
};

void number_set_release(struct number_set *s);
/* 1: new, 0: was there, -1: no memory. */
int number_set_add(struct number_set *s, uint64_t v);
bool number_set_has(const struct number_set *s, uint64_t v);

#endif
