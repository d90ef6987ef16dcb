/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's guest-physical address space and I/O port space.
 *
 * RAM and ROM live in one memfd, mapped once at `ram`, so that other processes can map the guest's
 * memory. What lies where is an immutable map that is replaced whole: readers take no lock.
 * Reads of nothing are all ones; writes to nothing are dropped.
 */
#ifndef RINGFENCE_MEM_MEM_H
#define RINGFENCE_MEM_MEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ull
#define PAGE_MASK (PAGE_SIZE - 1)

/* A guest-physical address. Never a pointer: mem_ptr() is the only way to host memory. */
typedef struct gpa {
    uint64_t v;
} gpa_t;

#define GPA(x) ((gpa_t){(x)})

/*
 * What a device answers. `off` is relative to the region. The core splits, merges and checks: a
 * handler sees only sizes between min_size and max_size (1, 2, 4 or 8), aligned to their size,
 * within the region. A narrower access than min_size becomes a min_size read (or
 * read-modify-write); a wider one than max_size becomes several, lowest address first. Zero means 1
 * and 4.
 */
struct io_ops {
    uint64_t (*read)(void *dev, uint64_t off, unsigned size);
    void (*write)(void *dev, uint64_t off, unsigned size, uint64_t value);
    uint8_t min_size;
    uint8_t max_size;
    bool unlocked; /* the handler does its own locking; otherwise it runs under mem->io_lock */
};

/* Per-page flags of RAM, indexed by offset into the memfd >> PAGE_SHIFT. */
enum {
    MEM_PAGE_CODE = 1, /* an engine holds decoded or translated code of this page */
    MEM_PAGE_LOG = 2,  /* the dirty log is on and has not seen this page yet */
};

struct mem_map;
struct region;

/* Code is tracked by lines of this many bytes, 64 to a page; sets of them are words. */
#define CODE_LINE 64u

struct mem_code_ops {
    void (*begins)(void *arg, uint64_t backing_page);
    void (*written)(void *arg, uint64_t backing_page, uint64_t lines);
};

struct mem {
    uint8_t *ram;       /* the whole memfd; host address of memfd offset 0 */
    uint64_t ram_bytes; /* size of the mapping: RAM, then ROMs */
    int memfd;
    _Atomic uint8_t *page_flags;
    _Atomic uint32_t *page_gen; /* bumped when code in a page is written */
    _Atomic(struct mem_map *) map;
    struct mem_priv *priv;
    /*
     * For an engine that stores without looking at page_flags; may be NULL. Told on the thread that
     * it happens on: a page gets MEM_PAGE_CODE (before its bytes are read), or lines of it that
     * held code do no more, for they were written, or to stop watching the page.
     */
    const struct mem_code_ops *code_ops;
    void *code_arg;
};

/*
 * Makes an address space with `ram_bytes` of zeroed backing (page multiple) that no address shows
 * yet, and room for `rom_bytes` more.
 */
struct mem *mem_new(uint64_t ram_bytes, uint64_t rom_bytes, struct err *e);
void mem_free(struct mem *m);

/*
 * Shows backing bytes [backing, backing + size) at gpa. All page-aligned. A region that overlaps
 * another is an error. ROM: guest writes are dropped.
 */
int mem_add_ram(struct mem *m, gpa_t gpa, uint64_t size, uint64_t backing, struct err *e);
int mem_add_rom(struct mem *m, gpa_t gpa, uint64_t size, uint64_t backing, struct err *e);
/* Takes `size` bytes of the ROM backing; returns its offset, for mem_add_rom, or UINT64_MAX. */
uint64_t mem_alloc_rom(struct mem *m, uint64_t size);

/*
 * Adds a device region; `dev` is passed to the handlers. NULL with the error set on overlap. `name`
 * must outlive the region. Regions may be added and removed while vCPUs run; after mem_del_region
 * returns, a handler that another thread had already entered may still be finishing.
 */
struct region *mem_add_mmio(struct mem *m, gpa_t gpa, uint64_t size, const char *name,
                            const struct io_ops *ops, void *dev, struct err *e);
struct region *mem_add_port(struct mem *m, uint16_t port, uint32_t count, const char *name,
                            const struct io_ops *ops, void *dev, struct err *e);
void mem_del_region(struct mem *m, struct region *r);

/* What lies at a guest-physical address, for an engine that fills a TLB. */
enum mem_kind { MEM_NONE, MEM_RAM, MEM_ROM, MEM_MMIO };

struct mem_hit {
    enum mem_kind kind;
    uint8_t *host;  /* RAM, ROM: host address of gpa */
    uint64_t bytes; /* bytes of this kind from gpa on, to the end of the region (or of the hole) */
};

void mem_lookup(const struct mem *m, gpa_t gpa, struct mem_hit *hit);

/*
 * The bounded accessor. Host memory for [gpa, gpa + len) when all of it is one run of RAM (or of
 * ROM, for reading), NULL otherwise. After writing through it call mem_wrote().
 */
const void *mem_ptr_r(const struct mem *m, gpa_t gpa, uint64_t len);
void *mem_ptr_w(struct mem *m, gpa_t gpa, uint64_t len);
void mem_wrote(struct mem *m, const void *host, uint64_t len);

/*
 * Copies that cross regions, for loaders and devices. RAM and ROM only (mem_write_rom may write
 * ROM, for loaders). Return 0, or -EFAULT when some of the range is neither; nothing is copied
 * then.
 */
int mem_read(const struct mem *m, gpa_t gpa, void *buf, uint64_t len);
int mem_write(struct mem *m, gpa_t gpa, const void *buf, uint64_t len);
int mem_write_rom(struct mem *m, gpa_t gpa, const void *buf, uint64_t len);

/* One guest access of 1, 2, 4 or 8 bytes at any address of any kind, split as needed. */
uint64_t mem_io_read(struct mem *m, gpa_t gpa, unsigned size);
void mem_io_write(struct mem *m, gpa_t gpa, unsigned size, uint64_t value);
/* One port access of 1, 2 or 4 bytes. */
uint32_t mem_port_read(struct mem *m, uint16_t port, unsigned size);
void mem_port_write(struct mem *m, uint16_t port, unsigned size, uint32_t value);

/* The lock under which device handlers run; recursive; timers and back ends take it too. */
void mem_io_lock(struct mem *m);
void mem_io_unlock(struct mem *m);

/*
 * Translated or decoded code (protocol, so that no write is missed):
 *  the engine calls mem_code_begin(page) which sets MEM_PAGE_CODE, makes every other thread of the
 * process see it (membarrier) when it was clear, and returns the page's generation; it copies bytes
 * and decodes the copy; then mem_code_commit() claims the lines that they lie in and tells whether
 * they still are what was copied (false: decode again). A block is valid while page_gen equals the
 * generation it was made under, or until its lines are told to code_ops->written. A writer stores
 * first and looks at page_flags after; when not 0 it calls mem_wrote(), which, if a claimed line
 * was hit, gives that up and then bumps the generation. A page where nothing is claimed any more,
 * or that is written often without a hit, loses the flag. Between the two the writer needs no
 * barrier but the compiler's: atomic_signal_fence(memory_order_seq_cst). Flags beyond those named
 * above belong to src/mem; test for 0, or for a bit.
 */
/* The lines of [off, off + len) of a page. */
static inline uint64_t mem_code_lines(uint64_t off, uint64_t len) {
    uint64_t first = off / CODE_LINE, last = (off + (len ? len - 1 : 0)) / CODE_LINE;
    return UINT64_MAX << first & UINT64_MAX >> (63 - last);
}

uint32_t mem_code_begin(struct mem *m, uint64_t backing_page);
/* `copy` of `len` bytes at `off` in the page. */
bool mem_code_commit(struct mem *m, uint64_t backing_page, uint64_t off, const void *copy,
                     uint64_t len);

/* Dirty log over RAM backing pages. */
int mem_log_start(struct mem *m, struct err *e);
void mem_log_stop(struct mem *m);
/* Copies the log (bit per backing page, little-endian uint64_t words) and starts it anew. */
void mem_log_fetch(struct mem *m, uint64_t *bitmap, uint64_t words);

#endif
