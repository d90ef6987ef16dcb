/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the translator share. A region is a stretch of guest code in one page, from its
 * entry to the first place where nothing goes on; branches within it are jumps of the host. It has
 * one set of scratch registers, which it does not use otherwise: stored at its entry, given back at
 * every way out.
 *
 * classify.c says what an instruction is, region.c which make a region, values.c which accesses lie
 * together, access.c emits accesses, branch.c what leaves, translate.c the whole.
 */
#ifndef RINGFENCE_CPU_BT_TRANSLATE_H
#define RINGFENCE_CPU_BT_TRANSLATE_H

#include "cpu/bt/bt.h"

#define REGION_INSNS 64u
#define REGION_GROUPS 16u
#define NO_REG 16u
#define NO_GROUP 0xffu

enum bt_kind {
    OUT,  /* executed by the reference engine's function, then on */
    LAST, /* likewise, and leaves the region */
    SKIP, /* does nothing that a guest could see */
    COPY,
    COPY_MARKED, /* may raise an exception of the host's */
    RECODED,     /* INC and DEC of 32-bit code, whose bytes are prefixes in 64-bit code */
    ROTATE,
    MEM,
    VECTOR,       /* wants the vector registers, which this region does not have */
    X87,          /* or MMX */
    LOAD_CONTROL, /* FLDCW, LDMXCSR */
    LEA,
    PUSH,
    PUSH_FROM, /* memory */
    PUSH_FLAGS,
    POP,
    LEAVE,
    CLEAR_IF,
    SET_IF,
    SPIN,  /* PAUSE */
    FENCE, /* what serializes: goes on elsewhere, for code may have been written */
    READ_TSC,
    SWAP_GS,
    CLEAR_DF,
    READ_CR,
    READ_SEGMENT, /* its selector */
    READ_BASE,    /* of FS or GS */
    BIT_STRING,   /* a bit test whose offset reaches beyond the operand */
    JCC,
    COUNT, /* JCXZ and LOOP */
    CALL,
    CALL_TO, /* through a register or memory */
    JMP,
    JMP_TO,
    RET,
    CHANGE_AC, /* STAC and CLAC */
};

/* From here on nothing follows in the region but what a branch in it goes to. */
static inline bool ends_flow(enum bt_kind k) {
    return k == LAST || k == VECTOR || k == FENCE || k >= CALL;
}

/* A memory access at a known distance from a value that registers hold. */
struct access {
    uint16_t value; /* 0: none such */
    uint16_t size;
    int32_t off;
    bool write;
    uint8_t group; /* or NO_GROUP */
};

enum { ON_MEMORY, ON_STACK };

struct item {
    struct x86_insn *insn;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    const uint8_t *bytes;
    uint32_t off;   /* in the page */
    uint32_t uses;  /* general registers, by bit */
    uint32_t kills; /* those whose value is another afterwards, as far as values.c does not know */
    enum bt_kind kind;
    bool label;              /* a branch in the region goes here */
    uint8_t *at;             /* its code (writable), once emitted */
    struct access access[2]; /* ON_MEMORY, ON_STACK */
};

/* Accesses near one value: one probe serves all of them. */
struct group {
    uint16_t value;
    bool write, probed;
    uint8_t count, maybe;  /* accesses for certain and perhaps, when the first is made */
    uint8_t first, labels; /* its item, and the labels before */
    uint8_t begin, last;   /* items between which the register is needed */
    bool computed;         /* the first address is no register's and a distance */
    unsigned reg;          /* holds what to add for the host's addresses or, when that is so,
                              the first byte's; NO_REG: none left */
    int32_t min, max;      /* bytes [min, max) from the value */
};

/* Code that is reached rarely, put behind the region. */
struct cold {
    uint8_t *from;  /* displacement of the jump that goes here, or NULL */
    uint64_t back;  /* where to go on; 0: leaves */
    uint64_t retry; /* where to look up again once it can hit; 0: nowhere */
    const struct item *item;
    struct bt_exit *exit; /* for an exit's stub */
    uint8_t *poll;        /* displacement in the NOP behind a poll, or NULL */
    int32_t ahead;        /* of the address that was looked up, the access */
    unsigned at;          /* the register with the address that was looked up */
    enum bt_operand operand;
    unsigned mode; /* of the code that is looked up */
    bool rcx_lent;
    bool write;
    bool finds; /* looks up code */
};

/* A branch whose target has not been emitted yet. */
struct forward {
    uint8_t *from;
    const struct item *to;
};

struct tr {
    struct bt_cpu *b;
    struct bt_block *block;
    struct emit e;
    struct item item[REGION_INSNS];
    unsigned count;
    struct group group[REGION_GROUPS];
    unsigned groups;
    struct forward forward[REGION_INSNS];
    unsigned forwards;
    uint32_t spilled; /* registers that were stored at the entry, by bit */
    unsigned s0, s1;  /* scratch registers */
    bool rcx_free;    /* RCX is a third one */
    bool rcx_saved;   /* it is not, and gs:[save_rcx] is what it holds */
    unsigned rcx_in;  /* the register that stands for the guest's RCX; RCX, unless that is free */
    unsigned mask_tlb, mask_above; /* registers that hold these (bt.h), or NO_REG */
    unsigned tlb_kind;
    unsigned bits;  /* 32 or 64 */
    bool single;    /* no groups: for code whose accesses straddle pages */
    bool vector;    /* the guest's vector registers are in the host's */
    bool x87;       /* and its x87 state */
    bool x87_noted; /* where x87 instructions are, but for the offset */
    struct cold cold[REGION_INSNS * 3];
    unsigned colds;
    struct x86_insn insn[REGION_INSNS];
    const struct x86_insn *kept_insn[REGION_INSNS]; /* copies among the cache's records */
    /* cold.c: code that regions share, and the keys of what this one adds to it. */
    uint64_t tail[BT_TAILS], tail_new[BT_TAILS];
};

/* REX.W where addresses have 64 bits. */
static inline unsigned tr_wide(const struct tr *t) {
    return t->bits == 64 ? REX_W : 0u;
}

static inline bool in_page(int64_t off) {
    return off >= 0 && off < (int64_t)PAGE_SIZE;
}

/* ---- classify.c ---- */
enum bt_kind bt_classify(const struct tr *t, const struct item *it);
const ZydisDecodedOperand *item_memory(const struct item *it);
int64_t branch_target(const struct item *it); /* relative to the page */
bool branches_back(const struct item *it);    /* or to itself */
bool item_jumps(const struct item *it);       /* to a branch target, always or on a condition */
bool item_divides(const struct item *it);
void item_registers(struct item *it);                /* fills uses and kills */
uint32_t operand_gpr(const ZydisDecodedOperand *op); /* the register that it is, as a bit, or 0 */
bool is_high_byte(const ZydisDecodedOperand *op);    /* AH, CH, DH or BH */

/* ---- region.c ---- */
/* Decodes the region at `host`, names its labels and groups and chooses registers. */
void region_collect(struct tr *t, const uint8_t *host);
/* The instruction at an offset of the page, if the region has it. */
struct item *region_at(struct tr *t, int64_t off);

/* ---- values.c ---- */
void values_group(struct tr *t);

/* ---- access.c ---- */
void emit_spill(struct tr *t), emit_unspill(struct tr *t);
/* Groups' registers beyond a call out. */
void emit_keep(struct tr *t, uint32_t registers), emit_kept(struct tr *t, uint32_t registers);
void lend_rcx(struct tr *t), return_rcx(struct tr *t);
void lend_for_jump(struct tr *t, struct cold *cold); /* to what will know that it is lent */
/* Goes there when a word of the vCPU is not zero. */
void emit_jump_if_set(struct tr *t, struct cold *cold, uint32_t word);
void emit_pext(struct tr *t, unsigned to, unsigned src, uint32_t mask);
void emit_pdep(struct tr *t, unsigned to, unsigned src, uint32_t mask);
/* MOV reg, gs:[index * 8 + disp] */
void emit_table(struct tr *t, unsigned reg, unsigned index, uint32_t disp);
uint8_t *jump_unless_zero(struct tr *t);
struct cold *cold_new(struct tr *t, const struct item *it);
uint8_t *emit_marker(struct tr *t);
/* At a region's entry, and where somebody else may have changed them: RCX's stand-in, and masks. */
void emit_held(struct tr *t);
/* Behind an instruction that sets RCX. */
void emit_rcx_out(struct tr *t);
/* An instruction that reads no memory, as it is or with RCX's stand-in. */
void emit_copy(struct tr *t, const struct item *it);
/* A register's rotation, by another count. */
void emit_rotate_by(struct tr *t, const struct item *it, unsigned by);
void emit_memory_item(struct tr *t, const struct item *it);
/* The operand, of 2 or 4 bytes, to s0. Where the instruction goes on after a miss is to be told. */
struct cold *emit_load_operand(struct tr *t, const struct item *it);
void emit_lea_item(struct tr *t, const struct item *it);
void emit_push(struct tr *t, const struct item *it), emit_pop(struct tr *t, const struct item *it);
void emit_push_from(struct tr *t, const struct item *it),
    emit_leave(struct tr *t, const struct item *it);
void emit_push_flags(struct tr *t, const struct item *it);
void emit_bit_string(struct tr *t, const struct item *it);
/* A load of a branch's target to s0; a return address's store; neither moves RSP. */
void emit_load_target(struct tr *t, const struct item *it);
void emit_load_return(struct tr *t, const struct item *it);
void emit_return_address(struct tr *t, const struct item *it);
void emit_move_rsp(struct tr *t, int32_t by);

/* ---- branch.c ---- */
/* To a fixed place relative to the page. */
void emit_exit(struct tr *t, const struct item *it, int64_t target);
void emit_branch_item(struct tr *t, const struct item *it);
void emit_find(struct tr *t, struct cold *cold, unsigned mode);
void emit_go(struct tr *t);
struct bt_exit *exit_new(struct tr *t, int64_t target);
/* A jump whose displacement can be replaced while it is executed. Returns that. */
uint8_t *emit_aligned_jump(struct tr *t);

/* ---- fpu.c ---- */

/* X87, LOAD_CONTROL or VECTOR; OUT for what is none of them. */
enum bt_kind fpu_classify(const struct tr *t, const struct item *it);
/* Whether a region has to have the x87 state in the host. */
bool fpu_used(const struct tr *t);
/* BT_X87_... of a call out. */
unsigned fpu_site(const struct tr *t, const struct item *it);
/* At a region's entry: leaves when the state is not there. */
void emit_x87_wanted(struct tr *t);
void emit_x87_item(struct tr *t, const struct item *it);
void emit_load_control(struct tr *t, const struct item *it);

/* ---- system.c ---- */
void emit_system_item(struct tr *t, const struct item *it);
enum bt_kind bt_classify_system(const struct tr *t, const struct item *it);

/* ---- cross.c ---- */
/* What a call out for this instruction asks first, or NULL. */
bt_quick_fn *bt_quick(const struct tr *t, const struct item *it);

/* ---- cold.c ---- */
void emit_gs_jump(struct tr *t, uint32_t to); /* jmp gs:[to] */
void emit_leave_stub(struct tr *t, const struct bt_exit *exit);
void emit_tails(struct tr *t); /* before any of the cold code */
void emit_cold(struct tr *t, struct cold *cold);
void keep_tails(struct tr *t); /* once the code is there to stay */

#endif
