/* Calls of the system as a kernel with longer pages answers them, for programs that run on one with pages of 4 KiB:
 * LD_PRELOAD this, and say in LONG_PAGES how many bytes a page has. Addresses come at multiples of that and are refused at
 * others, lengths are rounded up to it, and what is given back goes in whole pages. Only what is touched is not: a page takes
 * as much memory as was touched of it.
 *
 * What the C library does inside of itself stays as it is. Programs that make such calls by number are answered too. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef __x86_64__
#error "written for x86-64"
#endif

enum { REAL_PAGE = 4096 };

static size_t page_bytes(void) {
    static size_t bytes;
    if (bytes == 0) {
        const char *said = getenv("LONG_PAGES");
        size_t wanted = said == NULL ? REAL_PAGE : strtoul(said, NULL, 10);
        if (wanted < REAL_PAGE || (wanted & (wanted - 1)) != 0) abort();
        bytes = wanted;
    }
    return bytes;
}

static size_t whole(size_t bytes) { return (bytes + page_bytes() - 1) & ~(page_bytes() - 1); }
static int is_whole(const void *address) { return ((uintptr_t)address & (page_bytes() - 1)) == 0; }

/* The kernel's own answer: a number from -4095 on is an error. */
static long kernel(long call, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(call), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static int is_error(long result) { return result < 0 && result >= -4095; }

static long answer(long result) {
    if (!is_error(result)) return result;
    errno = (int)-result;
    return -1;
}

static void give(char *start, size_t bytes) {
    if (bytes > 0) kernel(SYS_munmap, (long)start, (long)bytes, 0, 0, 0, 0);
}

static long map(char *hint, size_t length, long access, long flags, long file, long offset) {
    size_t bytes = whole(length);
    if (bytes < length || length == 0) return length == 0 ? -EINVAL : -ENOMEM;
    if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))
        return is_whole(hint) ? kernel(SYS_mmap, (long)hint, (long)bytes, access, flags, file, offset) : -EINVAL;
    long first = kernel(SYS_mmap, (long)whole((size_t)hint), (long)bytes, access, flags, file, offset);
    if (is_error(first) || is_whole((char *)first)) return first;
    give((char *)first, bytes);
    /* Space with room, of which an aligned part is used. */
    long space = kernel(SYS_mmap, 0, (long)(bytes + page_bytes()), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (is_error(space)) return space;
    char *start = (char *)whole((size_t)space);
    give((char *)space, (size_t)(start - (char *)space));
    give(start + bytes, page_bytes() - (size_t)(start - (char *)space));
    long result = kernel(SYS_mmap, (long)start, (long)bytes, access, flags | MAP_FIXED, file, offset);
    if (is_error(result)) give(start, bytes);
    return result;
}

static long move(char *start, size_t old_length, size_t new_length, long flags, char *target) {
    size_t old_bytes = whole(old_length), new_bytes = whole(new_length);
    if (!is_whole(start) || ((flags & MREMAP_FIXED) && !is_whole(target))) return -EINVAL;
    if (flags & MREMAP_FIXED) return kernel(SYS_mremap, (long)start, (long)old_bytes, (long)new_bytes, flags, (long)target, 0);
    long result = kernel(SYS_mremap, (long)start, (long)old_bytes, (long)new_bytes, flags & ~MREMAP_MAYMOVE, 0, 0);
    if (result != -ENOMEM || !(flags & MREMAP_MAYMOVE)) return result;
    long space = map(NULL, new_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (is_error(space)) return space;
    result = kernel(SYS_mremap, (long)start, (long)old_bytes, (long)new_bytes, flags | MREMAP_FIXED, space, 0);
    if (is_error(result)) give((char *)space, new_bytes);
    return result;
}

/* A byte for each page, of which the kernel knows several. */
static long present(char *start, size_t length, unsigned char *bytes) {
    if (!is_whole(start)) return -EINVAL;
    for (size_t page = 0; page < whole(length) / page_bytes(); page++) {
        bytes[page] = 0;
        for (size_t at = 0; at < page_bytes(); at += REAL_PAGE) {
            unsigned char one = 0;
            long result = kernel(SYS_mincore, (long)(start + page * page_bytes() + at), REAL_PAGE, (long)&one, 0, 0, 0);
            if (is_error(result)) return result;
            bytes[page] |= one;
        }
    }
    return 0;
}

static long by_number(long call, long a, long b, long c, long d, long e, long f) {
    switch (call) {
    case SYS_mmap:
        return map((char *)a, (size_t)b, c, d, e, f);
    case SYS_mremap:
        return move((char *)a, (size_t)b, (size_t)c, d, (char *)e);
    case SYS_mincore:
        return present((char *)a, (size_t)b, (unsigned char *)c);
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_madvise:
        return is_whole((char *)a) ? kernel(call, a, (long)whole((size_t)b), c, d, e, f) : -EINVAL;
    default:
        return kernel(call, a, b, c, d, e, f);
    }
}

long syscall(long call, ...) {
    va_list rest;
    va_start(rest, call);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
    long d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    return answer(by_number(call, a, b, c, d, e, f));
}

void *mmap(void *hint, size_t length, int access, int flags, int file, off_t offset) {
    return (void *)answer(map(hint, length, access, flags, file, offset));
}
void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));

void *mremap(void *start, size_t old_length, size_t new_length, int flags, ...) {
    void *target = NULL;
    if (flags & MREMAP_FIXED) {
        va_list rest;
        va_start(rest, flags);
        target = va_arg(rest, void *);
        va_end(rest);
    }
    return (void *)answer(move(start, old_length, new_length, flags, target));
}

int munmap(void *start, size_t length) {
    return (int)answer(by_number(SYS_munmap, (long)start, (long)length, 0, 0, 0, 0));
}

int mprotect(void *start, size_t length, int access) {
    return (int)answer(by_number(SYS_mprotect, (long)start, (long)length, access, 0, 0, 0));
}

int madvise(void *start, size_t length, int advice) {
    return (int)answer(by_number(SYS_madvise, (long)start, (long)length, advice, 0, 0, 0));
}

int mincore(void *start, size_t length, unsigned char *bytes) {
    return (int)answer(present(start, length, bytes));
}

int getpagesize(void) { return (int)page_bytes(); }

/* Of what the C library knows only this is answered otherwise. */
long __sysconf(int name);

long sysconf(int name) { return name == _SC_PAGESIZE ? (long)page_bytes() : __sysconf(name); }
