/*
 * kdmp: read Windows kernel crash dumps.
 *
 * The C interface of the core.  It needs C11 and nothing else; the text
 * between the two markers is plain enough for cffi to parse as it is.
 *
 * Conventions.  Addresses, offsets and sizes inside a dump are uint64_t on
 * every host.  A function that can fail returns enum kdmp_status and sets its
 * outputs to a safe value first.  Nothing here prints, keeps global state or
 * allocates in proportion to a number that only the file claims.
 *
 * Threads.  A dump is immutable once open: any number of threads may use it
 * at once.  kdmp_close() must not run while another call uses the handle.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_H
#define KDMP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* <cdef> */

/*
 * Why a call failed.  The values from KDMP_E_NOT_PRESENT to KDMP_E_LIMIT are
 * answers about memory ("not there, because"), the others are failures.
 */
enum kdmp_status {
    KDMP_OK = 0,
    KDMP_E_NOMEM = 1,
    KDMP_E_OS = 2,          /* see kdmp_error.os_errno */
    KDMP_E_WRONG_FILE = 3,  /* not a kernel dump; the message says what it is */
    KDMP_E_FORMAT = 4,      /* the file contradicts itself; where = offset */
    KDMP_E_UNSUPPORTED = 5, /* a kernel dump that cannot do what was asked */
    KDMP_E_ARGUMENT = 6,    /* a parameter makes no sense */
    KDMP_E_NOT_PRESENT = 7, /* a page-table entry says: no page here */
    KDMP_E_NOT_IN_DUMP = 8, /* the frame exists but was not captured */
    KDMP_E_TRUNCATED = 9,   /* captured, but beyond the end of the file */
    KDMP_E_NON_CANONICAL = 10,
    KDMP_E_BAD_ENTRY = 11,   /* a present entry with reserved bits set */
    KDMP_E_ADDRESS_END = 12, /* the range runs past the last address */
    KDMP_E_LIMIT = 13,       /* a string without its end within the limit */
    KDMP_STATUS_COUNT = 14
};

/* Details of a failure.  Owned by the caller; no allocation behind it. */
struct kdmp_error {
    enum kdmp_status status;
    int os_errno;
    uint64_t where; /* file offset (formats) or address (memory) */
    char message[200];
};

/* How the bytes of a frame are found in the file. */
enum kdmp_layout {
    KDMP_LAYOUT_NONE = 0,    /* header only */
    KDMP_LAYOUT_RUNS = 1,    /* DumpType 1: physical memory descriptor */
    KDMP_LAYOUT_SUMMARY = 2, /* DumpType 2 of Windows 7 and older: old bitmap */
    KDMP_LAYOUT_BITMAP = 3,  /* DumpType 5, 6, 7 */
    KDMP_LAYOUT_RANGES = 4,  /* DumpType 8, 9, 0xA: RDMP */
    KDMP_LAYOUT_TRIAGE = 5,  /* DumpType 4: virtual ranges, no frames */
    KDMP_LAYOUT_RAW = 6,     /* a memory image; file position from given runs */
    KDMP_LAYOUT_COUNT = 7
};

/* What addresses of a space mean, and how they become frames. */
enum kdmp_paging {
    KDMP_PAGING_PHYSICAL = 0, /* addresses are physical; no walk */
    KDMP_PAGING_X64 = 1,      /* 4 levels */
    KDMP_PAGING_LA57 = 2,     /* 5 levels */
    KDMP_PAGING_X86 = 3,      /* 2 levels, 4-byte entries */
    KDMP_PAGING_PAE = 4,
    KDMP_PAGING_ARM64 = 5,  /* 4 KiB granule, 48 bits */
    KDMP_PAGING_TRIAGE = 6, /* virtual ranges of a triage dump; no walk */
    KDMP_PAGING_COUNT = 7
};

/* How the paging of a dump was chosen (kdmp_choose_paging). */
enum kdmp_paging_source {
    KDMP_PAGING_FROM_MACHINE = 0, /* the machine type leaves no choice */
    KDMP_PAGING_FROM_KDBG = 1,    /* PagingLevels in the debugger data block */
    KDMP_PAGING_FROM_TRIAL = 2,   /* only this one maps the kernel's data */
    KDMP_PAGING_BY_DEFAULT = 3,   /* nothing to tell by */
    KDMP_PAGING_FROM_HEADER = 4   /* PaeEnabled of the 32-bit header */
};

/* Named fields of the dump header.  See kdmp_field_name(). */
enum kdmp_field {
    KDMP_F_MAJOR_VERSION = 0,
    KDMP_F_MINOR_VERSION = 1,
    KDMP_F_DIRECTORY_TABLE_BASE = 2,
    KDMP_F_PFN_DATABASE = 3,
    KDMP_F_PS_LOADED_MODULE_LIST = 4,
    KDMP_F_PS_ACTIVE_PROCESS_HEAD = 5,
    KDMP_F_MACHINE_IMAGE_TYPE = 6,
    KDMP_F_NUMBER_PROCESSORS = 7,
    KDMP_F_BUG_CHECK_CODE = 8,
    KDMP_F_BUG_CHECK_PARAMETER1 = 9,
    KDMP_F_BUG_CHECK_PARAMETER2 = 10,
    KDMP_F_BUG_CHECK_PARAMETER3 = 11,
    KDMP_F_BUG_CHECK_PARAMETER4 = 12,
    KDMP_F_KD_DEBUGGER_DATA_BLOCK = 13,
    KDMP_F_NUMBER_OF_RUNS = 14,
    KDMP_F_NUMBER_OF_PAGES = 15,
    KDMP_F_DUMP_TYPE = 16,
    KDMP_F_REQUIRED_DUMP_SPACE = 17,
    KDMP_F_SYSTEM_TIME = 18,    /* FILETIME */
    KDMP_F_SYSTEM_UP_TIME = 19, /* 100 ns */
    KDMP_F_MINI_DUMP_FIELDS = 20,
    KDMP_F_SECONDARY_DATA_STATE = 21,
    KDMP_F_PRODUCT_TYPE = 22,
    KDMP_F_SUITE_MASK = 23,
    KDMP_F_WRITER_STATUS = 24,
    KDMP_F_KD_SECONDARY_VERSION = 25,
    KDMP_F_ATTRIBUTES = 26,
    KDMP_F_BOOT_ID = 27,
    KDMP_F_PAE_ENABLED = 28, /* 32-bit header only */
    KDMP_FIELD_COUNT = 29
};

/*
 * The decoded header.  A field that the writer left as filler ("PAGE"), or
 * that this header size does not have, has its bit in 'absent' set (bit
 * number = enum kdmp_field) and reads as 0.
 */
struct kdmp_info {
    uint64_t field[KDMP_FIELD_COUNT];
    uint64_t absent;
    char version_user[33]; /* "" when absent */
    char comment[129];
    uint8_t has_version_user;
    uint8_t has_comment;
    uint8_t pointer_size; /* 4 or 8 */
    uint8_t machine;      /* enum kdmp_machine */
    enum kdmp_layout layout;
    uint32_t header_size;    /* 0x1000, 0x2000; 0 for raw images */
    uint32_t context_offset; /* file offset of ContextRecord */
    uint32_t context_size;   /* bytes of the record's area */
    uint32_t exception_offset;
    uint32_t exception_size;
    uint64_t file_size;
    uint64_t first_page;       /* file offset of the first stored page */
    uint64_t pages_described;  /* frames that the layout describes */
    uint64_t pages_available;  /* ... whose bytes are in the file */
    uint64_t pages_claimed;    /* what the layout's own counter says */
    uint64_t pages_overlapped; /* described more than once; first wins */
    uint64_t pfn_end;          /* highest described frame + 1 */
    uint64_t bitmap_bits;      /* 0 unless the layout has a bitmap */
    uint64_t data_end;         /* file offset after the last described page */
};

enum kdmp_machine {
    KDMP_MACHINE_UNKNOWN = 0,
    KDMP_MACHINE_X64 = 1,
    KDMP_MACHINE_X86 = 2,
    KDMP_MACHINE_ARM64 = 3,
    KDMP_MACHINE_ARM = 4,
    KDMP_MACHINE_IA64 = 5
};

/* A stretch of frames.  file_offset is where the first one is stored. */
struct kdmp_run {
    uint64_t pfn;
    uint64_t count;
    uint64_t file_offset;
};

/*
 * A stretch of bytes that are contiguous where they are kept.  'ptr' is NULL
 * when they must be read from the file; they then start at 'file_offset'.
 */
struct kdmp_extent {
    const uint8_t *ptr;
    uint64_t file_offset;
    uint64_t length;
};

/*
 * A page source: the only way to physical memory.  A dump is one, an overlay
 * or a test's array is another.
 *
 * locate(): find the bytes at 'paddr'.  On KDMP_OK 'out' describes at least
 *   one and at most 'want' (> 0) bytes.  Otherwise KDMP_E_NOT_IN_DUMP or
 *   KDMP_E_TRUNCATED, and out->length is how many bytes from 'paddr' are
 *   missing for that cause: also at least one and at most 'want'.
 * read_file(): copy 'size' bytes at a file_offset that locate() gave with a
 *   NULL 'ptr'.  May be NULL if locate() always gives pointers.
 * next_run(): the first run of captured frames that ends above 'pfn', cut so
 *   that it starts at 'pfn' or later.  1 if there is one, else 0.
 * 'clean', if not NULL, is a source that has the same content at this moment
 *   and is quicker to ask: that under an overlay without changes.
 */
struct kdmp_source {
    enum kdmp_status (*locate)(const struct kdmp_source *self, uint64_t paddr,
                               uint64_t want, struct kdmp_extent *out);
    enum kdmp_status (*read_file)(const struct kdmp_source *self,
                                  uint64_t file_offset, void *buffer,
                                  size_t size);
    int (*next_run)(const struct kdmp_source *self, uint64_t pfn,
                    struct kdmp_run *out);
    const void *context;
    const struct kdmp_source *clean;
};

/*
 * Where Windows keeps what in a PTE that is not valid.  It moved with builds;
 * all zero means: as in current builds of the paging mode.  Numbers are bit
 * positions.  Prototype is bit 10 and Transition bit 11 everywhere.
 */
struct kdmp_pte_format {
    uint64_t frame_mask;          /* transition: PageFrameNumber in place; its
                                     low 12 bits do not count */
    uint8_t swizzle;              /* SwizzleBit; 0: there is none */
    uint8_t protection;           /* 5 bits; software, transition */
    uint8_t prototype_protection; /* 5 bits; prototype; 63: there is none */
    uint8_t prototype_read_only;
    uint8_t prototype_address; /* up to the top, sign-extended; 0: not an
                                  address that can be followed */
    uint8_t prototype_split;   /* non-PAE of Vista and 7: two parts */
    uint8_t pagefile_low;      /* 4 bits: number of the page file */
    uint8_t pagefile_high;     /* up to the top: page in it */
};

struct kdmp_pagefile;
struct kdmp_tlb;

/* A view of a section, as a VAD describes it: addresses from 'start' to before
 * 'end', whose prototype PTEs follow each other from 'prototype' on. */
struct kdmp_view {
    uint64_t start;
    uint64_t end;
    uint64_t prototype;
};

/*
 * One address space.  Plain data: copy it, put it on the stack.
 *
 * 'root' is the page-table root as Windows stores it; flag and PCID bits are
 * masked by the walk.  'invalid_pte_mask' is MiState.Hardware.InvalidPteMask
 * when 'mask_known', else 0.  The source must outlive the space.
 *
 * 'kernel_root', if not 0, is a second root to read prototype PTEs by when
 * the space's own does not map them.  'pagefiles' are page files by number
 * (entries may be NULL); pages that lie in them are read from there.  With
 * 'zero_fill' a demand-zero page reads as zeros.
 */
struct kdmp_space {
    const struct kdmp_source *source;
    const struct kdmp_dump *dump; /* needed for KDMP_PAGING_TRIAGE only */
    uint64_t root;
    uint64_t invalid_pte_mask;
    enum kdmp_paging paging;
    int mask_known;
    uint64_t kernel_root;
    struct kdmp_pte_format format;
    const struct kdmp_pagefile *const *pagefiles;
    uint32_t pagefile_count;
    struct kdmp_tlb *tlb; /* translations to reuse in reads; may be NULL */
    const struct kdmp_view *views; /* sorted; for entries that ask the VAD */
    uint64_t view_count;
    uint8_t zero_fill;
    uint8_t keep_prototypes; /* do not follow prototype PTEs */
};

/* What the last entry of a walk says. */
enum kdmp_pte_state {
    KDMP_PTE_NONE = 0,       /* the walk ended before an entry was read */
    KDMP_PTE_VALID = 1,      /* hardware-valid leaf */
    KDMP_PTE_TRANSITION = 2, /* invalid for the CPU, page still in its frame */
    KDMP_PTE_PROTOTYPE = 3,  /* shared: a prototype PTE knows the page */
    KDMP_PTE_ZERO = 4,       /* all bits 0 */
    KDMP_PTE_DEMAND_ZERO = 5,
    KDMP_PTE_PAGEFILE = 6,
    KDMP_PTE_TABLE = 7,      /* points to a table that could not be read */
    KDMP_PTE_BAD = 8,        /* present, reserved bits set */
    KDMP_PTE_SUBSECTION = 9, /* prototype PTE: the page is in a file */
    KDMP_PTE_VAD = 10,       /* the entry says: ask the VAD */
    KDMP_PTE_STATE_COUNT = 11
};

enum kdmp_translation_flags {
    KDMP_T_WRITABLE = 1, /* every level allows it; at the leaf Windows'
                            software Write bit counts too */
    KDMP_T_EXECUTABLE = 2,
    KDMP_T_USER = 4,
    KDMP_T_GLOBAL = 8,
    KDMP_T_ACCESSED = 0x10,
    KDMP_T_DIRTY = 0x20,
    KDMP_T_WRITE_THROUGH = 0x40,
    KDMP_T_CACHE_DISABLE = 0x80,
    KDMP_T_PAT = 0x100,
    KDMP_T_COPY_ON_WRITE = 0x200,
    KDMP_T_HARDWARE_WRITABLE = 0x400, /* what the CPU would allow right now */
    KDMP_T_TOP_NX_IGNORED = 0x800, /* KVA shadow's NX in the top user entry */
    KDMP_T_UNSWIZZLED = 0x1000,    /* L1TF bits were removed from the entry */
    KDMP_T_KERNEL_EXECUTABLE = 0x2000 /* ARM64: EL1 may execute */
};

/* One page-table entry the walk has read. */
struct kdmp_entry {
    uint64_t paddr;
    uint64_t value;
};

/*
 * A walk and its evidence.  Filled on success and on failure: 'depth' entries
 * have been read, entries[0] is the root's.  'level' is that of the last
 * entry, or of the table that could not be read (4 = PML4 ... 1 = PT; 5 with
 * LA57; 0 when no walk took place).
 *
 * When the last entry points to a prototype PTE, 'prototype' is that one's
 * address and 'prototype_value' its content (0 and 0 if it could not be
 * read), and 'state' is PROTOTYPE if it led to a page, else what the prototype
 * PTE says.  When the page is in a page file, 'pagefile' and 'pagefile_page'
 * say where.
 *
 * On success 'paddr' is the physical address of 'vaddr'.  When a table is
 * missing (KDMP_E_NOT_IN_DUMP, KDMP_E_TRUNCATED) it is the physical address
 * of the entry that could not be read.
 */
struct kdmp_translation {
    uint64_t vaddr;
    uint64_t root;
    uint64_t paddr;
    uint64_t page_size; /* of the leaf; on failure what one entry there maps */
    uint32_t flags;     /* enum kdmp_translation_flags */
    uint8_t paging;     /* enum kdmp_paging */
    uint8_t state;      /* enum kdmp_pte_state */
    uint8_t status;     /* enum kdmp_status */
    uint8_t level;
    uint8_t depth;
    uint8_t protection; /* 5-bit Windows protection of a software PTE */
    uint8_t pagefile;   /* number 0-15 */
    uint8_t unused[5];
    uint64_t pagefile_page; /* in units of 4096 bytes */
    uint64_t prototype;
    uint64_t prototype_value;
    struct kdmp_entry entries[5];
};

/*
 * Why a read stopped.  'address' is the first byte that could not be read,
 * in the terms of the space.  'missing' bytes from there are missing for the
 * same cause (at least 1; the rest of the page, table or hole).  'paddr' is
 * the physical address that is not there, when the walk got that far.
 */
struct kdmp_fault {
    enum kdmp_status status;
    uint64_t address;
    uint64_t paddr;
    uint64_t missing;
    uint64_t below_end;   /* triage: end of the nearest bytes below, or 0 */
    uint64_t above_start; /* triage: start of the nearest above, or 0 */
    struct kdmp_translation walk;
};

/* Named fields of TRIAGE_DUMP32/64.  See kdmp_triage_field_name(). */
enum kdmp_triage_field {
    KDMP_TF_SERVICE_PACK_BUILD = 0,
    KDMP_TF_SIZE_OF_DUMP = 1,
    KDMP_TF_VALID_OFFSET = 2,
    KDMP_TF_CONTEXT_OFFSET = 3,
    KDMP_TF_EXCEPTION_OFFSET = 4,
    KDMP_TF_MM_OFFSET = 5,
    KDMP_TF_UNLOADED_DRIVERS_OFFSET = 6,
    KDMP_TF_PRCB_OFFSET = 7,
    KDMP_TF_PROCESS_OFFSET = 8,
    KDMP_TF_THREAD_OFFSET = 9,
    KDMP_TF_CALL_STACK_OFFSET = 10,
    KDMP_TF_SIZE_OF_CALL_STACK = 11,
    KDMP_TF_DRIVER_LIST_OFFSET = 12,
    KDMP_TF_DRIVER_COUNT = 13,
    KDMP_TF_STRING_POOL_OFFSET = 14,
    KDMP_TF_STRING_POOL_SIZE = 15,
    KDMP_TF_BROKEN_DRIVER_OFFSET = 16,
    KDMP_TF_TRIAGE_OPTIONS = 17,
    KDMP_TF_TOP_OF_STACK = 18,
    KDMP_TF_DATA_PAGE_ADDRESS = 19,
    KDMP_TF_DATA_PAGE_OFFSET = 20,
    KDMP_TF_DATA_PAGE_SIZE = 21,
    KDMP_TF_DEBUGGER_DATA_OFFSET = 22,
    KDMP_TF_DEBUGGER_DATA_SIZE = 23,
    KDMP_TF_DATA_BLOCKS_OFFSET = 24,
    KDMP_TF_DATA_BLOCKS_COUNT = 25,
    KDMP_TRIAGE_FIELD_COUNT = 26
};

/* Where a virtual range of a triage dump comes from; the order is that of
 * trust where ranges overlap. */
enum kdmp_va_origin {
    KDMP_VA_DATA_BLOCK = 0,
    KDMP_VA_CALL_STACK = 1,
    KDMP_VA_DATA_PAGE = 2,
    KDMP_VA_DEBUGGER_DATA = 3,
    KDMP_VA_PROCESSOR = 4, /* KPRCB, EPROCESS, ETHREAD: copies */
    KDMP_VA_THREAD = 5,
    KDMP_VA_PROCESS = 6,
    KDMP_VA_ORIGIN_COUNT = 7
};

struct kdmp_va_range {
    uint64_t address;
    uint64_t size;
    uint64_t file_offset;
    enum kdmp_va_origin origin;
};

struct kdmp_dump;

/* A file-like object: read 'size' bytes at 'offset', return 0 or an errno. */
struct kdmp_stream {
    int (*read_at)(void *context, uint64_t offset, void *buffer, size_t size);
    void *context;
    uint64_t size;
};

/*
 * Open a dump by file descriptor (duplicated; the caller keeps its own).
 * With 'map' the file is mapped: fastest, but if somebody shortens the file
 * while it is open the process gets SIGBUS (see struct kdmp_map_watch for
 * those who can live with that).  Without, every access is a read and such a
 * change is an error.
 *
 * On success *dump_out is a handle to close later.  On failure *dump_out is
 * NULL and *err, if err is not NULL, says why.
 */
enum kdmp_status kdmp_open_fd(int fd, int map, struct kdmp_dump **dump_out,
                              struct kdmp_error *err);

/* As kdmp_open_fd(), by path (in the file system's own encoding). */
enum kdmp_status kdmp_open_path(const char *path, int map,
                                struct kdmp_dump **dump_out,
                                struct kdmp_error *err);

/*
 * Open a dump that is already in memory.  'data' is not copied; it must stay
 * valid and unchanged until kdmp_close().
 */
enum kdmp_status kdmp_open_memory(const void *data, size_t size,
                                  struct kdmp_dump **dump_out,
                                  struct kdmp_error *err);

/* Open a dump behind a callback.  '*stream' is copied. */
enum kdmp_status kdmp_open_stream(const struct kdmp_stream *stream,
                                  struct kdmp_dump **dump_out,
                                  struct kdmp_error *err);

/*
 * Who wants to know where files are mapped, to tell a SIGBUS of theirs from
 * others.  mapped() is called before anything is read through a mapping, with
 * the descriptor that stays open as long; if it does not return 0 the file is
 * refused with KDMP_E_NOMEM.  unmapping() is called before the mapping goes.
 */
struct kdmp_map_watch {
    int (*mapped)(void *context, const void *base, size_t size, int fd);
    void (*unmapping)(void *context, const void *base);
    void *context;
};

/* Where a file is, one of: a path (mapped if 'map'), bytes that stay
 * the caller's, or a stream.  What is not used is NULL. */
struct kdmp_input {
    const char *path;
    int map;
    const void *data;
    size_t size;
    const struct kdmp_stream *stream;
    const struct kdmp_map_watch *watch; /* copied */
};

/* What a memory image without a header is.  No runs: the whole file from
 * physical address 0, or the segments of an ELF core. */
struct kdmp_raw {
    const struct kdmp_run *runs;
    uint64_t run_count;
    enum kdmp_machine machine; /* UNKNOWN: what the ELF says, else x64 */
};

/* The general way to open: a dump if 'raw' is NULL, else a raw memory image or
 * the ELF core of a virtual machine. */
enum kdmp_status kdmp_open_input(const struct kdmp_input *input,
                                 const struct kdmp_raw *raw,
                                 struct kdmp_dump **dump_out,
                                 struct kdmp_error *err);

/*
 * Find a page-table root by trial: a table that maps itself and under which
 * KUSER_SHARED_DATA is where Windows has it.  Reads all frames at worst.
 * KDMP_E_NOT_PRESENT if there is none.
 */
enum kdmp_status kdmp_find_root(const struct kdmp_dump *dump,
                                enum kdmp_paging paging, uint64_t *root_out);

/* Close a handle; NULL is allowed. */
void kdmp_close(struct kdmp_dump *dump);

/* The decoded header and the figures of the page layout.  Lives as long as
 * the handle. */
const struct kdmp_info *kdmp_get_info(const struct kdmp_dump *dump);

/* Field name in snake case ("directory_table_base"), NULL if out of range. */
const char *kdmp_field_name(int field);

/* Name of a status ("KDMP_E_FORMAT"), "?" if out of range. */
const char *kdmp_status_name(int status);

/* The mapped (or given) bytes of the whole file, or NULL if it is not
 * mapped. */
const uint8_t *kdmp_file_bytes(const struct kdmp_dump *dump,
                               uint64_t *size_out);

/* Copy bytes of the file as they are.  KDMP_E_FORMAT beyond the end. */
enum kdmp_status kdmp_read_file(const struct kdmp_dump *dump,
                                uint64_t file_offset, void *buffer, size_t size,
                                struct kdmp_error *err);

/* The dump as a page source.  Lives as long as the handle. */
const struct kdmp_source *kdmp_get_source(const struct kdmp_dump *dump);

/* KDMP_OK if the frame is readable, else KDMP_E_NOT_IN_DUMP or
 * KDMP_E_TRUNCATED.  Constant time for bitmaps, logarithmic in the number of
 * runs otherwise. */
enum kdmp_status kdmp_frame_status(const struct kdmp_dump *dump, uint64_t pfn);

/* Number of readable frames in [first, end).  Not proportional to it. */
uint64_t kdmp_count_frames(const struct kdmp_dump *dump, uint64_t first,
                           uint64_t end);

/* The first run of readable frames at or above 'pfn'; contiguous in the file
 * too.  1 if there is one, else 0. */
int kdmp_next_run(const struct kdmp_dump *dump, uint64_t pfn,
                  struct kdmp_run *out);

/* A field of the triage header: 1 and its value, or 0 for other dumps. */
int kdmp_triage_field(const struct kdmp_dump *dump, int field,
                      uint64_t *value_out);

/* Field name in snake case, NULL if out of range. */
const char *kdmp_triage_field_name(int field);

/* The virtual ranges of a triage dump, in the file's order, copies last.
 * They may overlap; kdmp_get_va_range() is 0 beyond the last. */
uint64_t kdmp_va_range_count(const struct kdmp_dump *dump);
int kdmp_get_va_range(const struct kdmp_dump *dump, uint64_t number,
                      struct kdmp_va_range *out);

/* Name of an origin ("call stack"), NULL if out of range. */
const char *kdmp_va_origin_name(int origin);

/* The merged ranges of a triage dump around an address, as kdmp_run with
 * addresses and bytes for frames and pages.  Bit 0 of the result: *below_out
 * starts at or below it; bit 1: *above_out is the first readable stretch at
 * or above it. */
int kdmp_nearest_va(const struct kdmp_dump *dump, uint64_t vaddr,
                    struct kdmp_run *below_out, struct kdmp_run *above_out);

/*
 * Choose the paging of a dump: by machine type, then by what the dump says,
 * then by trial on addresses the header names (KDBG, PsLoadedModuleList,
 * PsActiveProcessHead).  'root' is usually the header's
 * DirectoryTableBase.  KDMP_E_UNSUPPORTED for machines without a walk here.
 */
enum kdmp_status kdmp_choose_paging(const struct kdmp_dump *dump, uint64_t root,
                                    enum kdmp_paging *paging_out,
                                    enum kdmp_paging_source *source_out);

/* Levels of a paging mode: 0 physical, 4 x64 ... */
int kdmp_paging_levels(enum kdmp_paging paging);

/* Last address of a space (2^64-1, 2^32-1 ...). */
uint64_t kdmp_last_address(enum kdmp_paging paging);

/*
 * Translate a virtual address by the page tables alone: success does not
 * promise that the frame is in the dump (see kdmp_frame_status()).  A
 * transition PTE translates; its rights come from its Protection field.
 * Returns out->status.  With KDMP_PAGING_PHYSICAL the result is the identity.
 */
enum kdmp_status kdmp_translate(const struct kdmp_space *space, uint64_t vaddr,
                                struct kdmp_translation *out);

/*
 * Copy 'size' bytes at 'address' (virtual or physical, as the space says)
 * until the first byte that is not there.  *done_out is how many were
 * copied; KDMP_OK means all.  Otherwise the reason is returned and *fault, if
 * not NULL, says where and why.  The rest of the buffer is left as it was.
 */
enum kdmp_status kdmp_read(const struct kdmp_space *space, uint64_t address,
                           void *buffer, uint64_t size, uint64_t *done_out,
                           struct kdmp_fault *fault);

/*
 * Whether kdmp_read() finds the byte at 'address': KDMP_OK, or the reason.
 * Then *fault says how far that one cause reaches, however far that is: up to
 * the next frame of the dump, or to the end of the page or table.
 */
enum kdmp_status kdmp_probe_byte(const struct kdmp_space *space,
                                 uint64_t address, struct kdmp_fault *fault);

/*
 * Copy a string: units of 'unit' bytes (1, 2 or 4) up to, not including, the
 * first zero unit, at most 'limit' bytes (a multiple of 'unit').  No byte
 * beyond the terminator's page or the limit is touched.  KDMP_E_LIMIT if
 * there is no terminator within the limit; *done_out bytes are copied then,
 * as they are at a hole.
 */
enum kdmp_status kdmp_read_string(const struct kdmp_space *space,
                                  uint64_t address, unsigned unit, void *buffer,
                                  uint64_t limit, uint64_t *done_out,
                                  struct kdmp_fault *fault);

/*
 * Translate many addresses.  Each gets what kdmp_translate() would give: a
 * status, and the physical address (UINT64_MAX without one).  The tables must
 * not change meanwhile.  KDMP_E_NOMEM, or KDMP_OK whatever the statuses are.
 */
enum kdmp_status kdmp_translate_many(const struct kdmp_space *space,
                                     const uint64_t *vaddrs, size_t count,
                                     uint64_t *paddrs_out,
                                     uint8_t *statuses_out);

/* Read 'size' bytes at each of many addresses, one after another into the
 * buffer; where bytes are missing there are zeros, and the status that
 * kdmp_read() would return. */
enum kdmp_status kdmp_read_many(const struct kdmp_space *space,
                                const uint64_t *addresses, size_t count,
                                uint64_t size, void *buffer,
                                uint8_t *statuses_out);

/* Open a page file: 'input' as for kdmp_open_input(). */
enum kdmp_status kdmp_pagefile_open(const struct kdmp_input *input,
                                    struct kdmp_pagefile **out,
                                    struct kdmp_error *err);
void kdmp_pagefile_close(struct kdmp_pagefile *pagefile);

/* A mapped range: what follows each other with one page size, state and
 * rights.  'paddr' is where its first page is, 0 for states without a frame. */
struct kdmp_mapping {
    uint64_t start;
    uint64_t size;
    uint64_t page_size;
    uint64_t paddr;
    uint32_t flags; /* KDMP_T_WRITABLE, EXECUTABLE, USER */
    uint8_t state;  /* enum kdmp_pte_state; TABLE: a table is missing */
    uint8_t unused[3];
};

/*
 * A place in an enumeration of mappings.  Set 'next' and 'last' to the first
 * and the last address, 'tables_left' to how many page tables may be visited
 * at most (tables that point to each other would be visited for ever; missing
 * ones do not count), and
 * the rest to 0.  'only_pfn' with 'filter' restricts it to pages of a frame.
 */
struct kdmp_map_cursor {
    uint64_t next;
    uint64_t last;
    uint64_t tables_left;
    uint64_t only_pfn;
    uint8_t filter;
    uint8_t done; /* nothing follows */
    uint8_t has_pending;
    uint8_t unused[5];
    struct kdmp_mapping pending;
};

/*
 * The next mapped ranges, at most 'room' (> 0) of them, in *out.  0 of them
 * and cursor->done at the end.  KDMP_E_LIMIT when 'tables_left' is used up;
 * the ranges up to there have been given.  KDMP_E_NOMEM (never for a dump in
 * memory): the enumeration can be gone on with.  Empty entries are not ranges;
 * prototype PTEs are not followed.
 */
enum kdmp_status kdmp_next_mappings(const struct kdmp_space *space,
                                    struct kdmp_map_cursor *cursor,
                                    struct kdmp_mapping *out, size_t room,
                                    size_t *count_out);

/*
 * Bytes of an address space that can be read and are in one piece where they
 * are kept: 'paddr', 'file_offset' and 'ptr' go up with the address.  'paddr'
 * is UINT64_MAX where there is no frame (triage dumps, pages of page files,
 * zero_fill), 'file_offset' where the bytes are not in the dump's file (frames
 * of an overlay as well).  Bytes whose 'ptr' is NULL are to be had from
 * kdmp_read(); a pointer is good until the source changes.
 */
struct kdmp_stretch {
    uint64_t address;
    uint64_t length;
    uint64_t paddr;
    uint64_t file_offset;
    const uint8_t *ptr;
};

/*
 * A place in an enumeration of stretches.  Set 'next' and 'last' to the first
 * and the last address, 'tables_left' as in struct kdmp_map_cursor, and the
 * rest to 0.  With 'most' not 0 nothing is joined to a stretch that has so many
 * bytes: it is given earlier.  'met_vad' is set when an entry leaves its page
 * to a VAD that the space has no view of.
 */
struct kdmp_extent_cursor {
    uint64_t next;
    uint64_t last;
    uint64_t tables_left;
    uint64_t most;
    uint8_t done; /* nothing follows but what is pending */
    uint8_t has_pending;
    uint8_t met_vad;
    uint8_t unused[5];
    struct kdmp_stretch pending;
};

/*
 * The next stretches, at most 'room' (> 0) of them, in *out: what kdmp_read()
 * reads between the bounds, and nothing else.  Those that follow each other in
 * every respect are one; frames of an overlay never are.  The work of a call is
 * bounded, so that it may give none although there are more: go on until
 * cursor->done and nothing is pending.  KDMP_E_LIMIT when 'tables_left' is used
 * up; the stretches up to there have been given.  Other failures (KDMP_E_NOMEM,
 * KDMP_E_OS) can be tried again.
 */
enum kdmp_status kdmp_next_extents(const struct kdmp_space *space,
                                   struct kdmp_extent_cursor *cursor,
                                   struct kdmp_stretch *out, size_t room,
                                   size_t *count_out);

/* Bytes to find: byte b fits value v if (b & m) == (v & m).  No mask: all bits
 * count. */
struct kdmp_pattern {
    const uint8_t *bytes;
    const uint8_t *mask; /* may be NULL */
    uint64_t length;
};

/* Unsigned little-endian numbers of 'size' (4 or 8) bytes to find. */
struct kdmp_pointer_range {
    uint64_t first;
    uint64_t last;
    uint64_t size;
};

/* Kinds of text: runs of printable characters, which are tab and 0x20-0x7E,
 * and in UTF-16 (little-endian, at even and odd addresses) also 0xA0-0xFF. */
enum kdmp_text_kind { KDMP_TEXT_ASCII = 1, KDMP_TEXT_UTF16 = 2 };

/*
 * What to find, all at once: patterns, numbers 0 and up, and ranges of
 * pointers, numbered behind them; or text: runs of at least 'text_minimum'
 * (2-65536) characters, ASCII being number 0 and UTF-16 number 1.  Only what
 * begins at a multiple of 'alignment' (1-2^20) counts.  At most 65536 patterns
 * of 1-65536 bytes, not all of them wildcards, 16 MiB together; at most 64
 * ranges.
 */
struct kdmp_matcher_spec {
    const struct kdmp_pattern *patterns;
    uint64_t pattern_count;
    const struct kdmp_pointer_range *pointers;
    uint64_t pointer_count;
    uint64_t text_minimum; /* 0: no text */
    uint32_t text_kinds;   /* enum kdmp_text_kind, or-ed */
    uint32_t unused;
    uint64_t alignment;
};

struct kdmp_matcher;

/* Compile what to find.  Nothing of the spec is needed afterwards.  A matcher
 * does not change: any number of threads may use it.  KDMP_E_ARGUMENT for what
 * cannot be looked for; err->where is the number of the pattern or range. */
enum kdmp_status kdmp_matcher_open(const struct kdmp_matcher_spec *spec,
                                   struct kdmp_matcher **out,
                                   struct kdmp_error *err);
void kdmp_matcher_close(struct kdmp_matcher *matcher);

/* How many numbers matches can have, and how long one can be. */
uint64_t kdmp_matcher_count(const struct kdmp_matcher *matcher);
uint64_t kdmp_matcher_longest(const struct kdmp_matcher *matcher);

/* Where something was found; 'paddr' and 'file_offset' of its first byte are
 * UINT64_MAX if there is none, as in struct kdmp_stretch. */
struct kdmp_match {
    uint64_t address;
    uint64_t length;
    uint64_t pattern;
    uint64_t paddr;
    uint64_t file_offset;
};

/*
 * A place in a search.  Set 'next' and 'last' to the first and the last address
 * at which matches may begin, 'budget' to about how many bytes a call may
 * look at (> 0), 'tables_left' as in struct kdmp_map_cursor, and the rest to 0.
 * 'bytes' grows by what has been looked at: in the end it is the number of
 * readable bytes between the bounds.
 */
struct kdmp_search {
    uint64_t next;
    uint64_t last;
    uint64_t budget;
    uint64_t tables_left;
    uint64_t bytes;
    uint8_t done;
    uint8_t met_vad; /* as in struct kdmp_extent_cursor */
    uint8_t unused[6];
};

/*
 * Find the next matches, at most 'room' of them (at least as many as the
 * matcher has numbers, and 8), in ascending order of address and number;
 * overlapping ones, too.  All of them that begin below search->next have been
 * given.  Matches lie in memory that can be read, but may end behind 'last'.
 * The call returns when there is no more room, the budget is used up or the
 * end is reached (search->done); it may give nothing before that.
 *
 * A run of text that begins before 'next' is not given, nor is its rest.  A
 * run that holds all of the 64 KiB before a multiple of 64 KiB is cut there,
 * by the last byte of each character.
 *
 * KDMP_E_LIMIT when 'tables_left' is used up; KDMP_E_OS and others when memory
 * that is there cannot be read: the matches below search->next have been given.
 */
enum kdmp_status kdmp_scan(const struct kdmp_space *space,
                           const struct kdmp_matcher *matcher,
                           struct kdmp_search *search, struct kdmp_match *out,
                           size_t room, size_t *count_out);

/* What became of a frame from one page source to another. */
enum kdmp_frame_change {
    KDMP_FRAME_CHANGED = 1, /* both have it, the bytes differ */
    KDMP_FRAME_ONLY_FIRST = 2,
    KDMP_FRAME_ONLY_SECOND = 3
};

/* Frames that follow each other, with the same change. */
struct kdmp_frame_run {
    uint64_t pfn;
    uint64_t count;
    uint64_t change; /* enum kdmp_frame_change */
};

/*
 * A place in a comparison.  Set 'next' and 'end' to the first frame and the
 * one after the last, the rest to 0; the counts grow from call to call.
 */
struct kdmp_comparison {
    uint64_t next;
    uint64_t end;
    uint64_t same; /* frames */
    uint64_t changed;
    uint64_t only_first;
    uint64_t only_second;
    uint64_t changed_bytes; /* that differ, in changed frames */
};

/*
 * Compare the frames of two page sources, which have whole frames only
 * (KDMP_E_ARGUMENT else), by content.  Gives the runs of those that are not
 * the same, at most 'room' (> 0) of them, in *out; call again while
 * state->next < state->end.  A frame beyond the end of a truncated file is
 * one that this source does not have.  On failure of a read
 * state->next is the frame, or up to three frames before it, and the runs up
 * to there have been given.
 */
enum kdmp_status kdmp_compare_frames(const struct kdmp_source *first,
                                     const struct kdmp_source *second,
                                     struct kdmp_comparison *state,
                                     struct kdmp_frame_run *out, size_t room,
                                     size_t *count_out);

/*
 * An overlay: writes over a page source, whose frames are copied when they are
 * first written.  It is a page source itself; a space that is to see the
 * writes has kdmp_overlay_source().  The base must outlive it and not change.
 * One thread at a time may use an overlay and the spaces on it; any number may
 * use the base meanwhile.
 */
struct kdmp_overlay;

enum kdmp_status kdmp_overlay_open(const struct kdmp_source *base,
                                   struct kdmp_overlay **out);
void kdmp_overlay_close(struct kdmp_overlay *overlay);
const struct kdmp_source *
kdmp_overlay_source(const struct kdmp_overlay *overlay);

/*
 * Write 'size' bytes at 'address' of a space on this overlay.  Everything is
 * looked at first: if a page is not there nothing is written, *done_out is 0
 * and *fault says what kdmp_read() would.  The rights in the page tables do
 * not matter.  KDMP_E_NOMEM and KDMP_E_OS leave
 * *done_out bytes written.
 */
enum kdmp_status kdmp_overlay_write(struct kdmp_overlay *overlay,
                                    const struct kdmp_space *space,
                                    uint64_t address, const void *data,
                                    uint64_t size, uint64_t *done_out,
                                    struct kdmp_fault *fault);

/* Where a write to 'address' of a space on this overlay goes.  Otherwise why
 * it does not, as kdmp_overlay_write(). */
enum kdmp_status kdmp_overlay_resolve(const struct kdmp_overlay *overlay,
                                      const struct kdmp_space *space,
                                      uint64_t address, uint64_t *paddr_out,
                                      struct kdmp_fault *fault);

/* Make up a frame of zeros that the base does not have.  KDMP_E_ARGUMENT if
 * there is one. */
enum kdmp_status kdmp_overlay_create(struct kdmp_overlay *overlay,
                                     uint64_t pfn);

/* Let a frame show the content of another one, which must be there;
 * KDMP_E_ARGUMENT if either has been remapped or the frame has been
 * written.  Writes go to the other one. */
enum kdmp_status kdmp_overlay_remap(struct kdmp_overlay *overlay, uint64_t pfn,
                                    uint64_t target);

/* Make a frame the base's again; KDMP_E_NOT_PRESENT if it is, KDMP_E_ARGUMENT
 * if it was made up and another frame shows it. */
enum kdmp_status kdmp_overlay_revert(struct kdmp_overlay *overlay,
                                     uint64_t pfn);

/*
 * Remember the present state, and go back to it any number of times, which
 * costs what was changed since (*frames_out).  Snapshots taken after the one
 * restored are gone; KDMP_E_ARGUMENT for one that is gone.
 */
enum kdmp_status kdmp_overlay_snapshot(struct kdmp_overlay *overlay,
                                       uint64_t *id_out);
enum kdmp_status kdmp_overlay_restore(struct kdmp_overlay *overlay, uint64_t id,
                                      uint64_t *frames_out);

/* Forget one snapshot; the others stay.  KDMP_E_ARGUMENT if it is gone. */
enum kdmp_status kdmp_overlay_drop(struct kdmp_overlay *overlay, uint64_t id);

/* Forget all snapshots; forget them and all changes. */
void kdmp_overlay_forget(struct kdmp_overlay *overlay);
void kdmp_overlay_reset(struct kdmp_overlay *overlay);

/* A frame that is not the base's: its 4096 bytes, or the frame it shows. */
struct kdmp_overlay_frame {
    uint64_t pfn;
    const uint8_t *bytes; /* NULL when remapped */
    uint64_t target;
    uint8_t remapped;
    uint8_t synthetic; /* the base has no such frame */
    uint8_t unused[6];
};

/* The frames that are not the base's, in no order; 0 beyond the last. */
uint64_t kdmp_overlay_count(const struct kdmp_overlay *overlay);
int kdmp_overlay_get(const struct kdmp_overlay *overlay, uint64_t number,
                     struct kdmp_overlay_frame *out);

/* One of them by its number, 0 if the frame is the base's. */
int kdmp_overlay_find(const struct kdmp_overlay *overlay, uint64_t pfn,
                      struct kdmp_overlay_frame *out);

/* Those of them that are remapped; 0 beyond the last. */
uint64_t kdmp_overlay_remap_count(const struct kdmp_overlay *overlay);
int kdmp_overlay_get_remap(const struct kdmp_overlay *overlay, uint64_t number,
                           struct kdmp_overlay_frame *out);

/*
 * Watch a frame: which of its 8-byte units are written, reverted or restored.
 * Calls count, and as many kdmp_overlay_unwatch() end it; KDMP_E_ARGUMENT for
 * what is no frame number.  take_dirty() gives and forgets the addresses of
 * such units, at most 'room' at a time.
 */
enum kdmp_status kdmp_overlay_watch(struct kdmp_overlay *overlay, uint64_t pfn);
void kdmp_overlay_unwatch(struct kdmp_overlay *overlay, uint64_t pfn);
size_t kdmp_overlay_take_dirty(struct kdmp_overlay *overlay,
                               uint64_t *paddr_out, size_t room);

/* Tell the overlay that a walk has used a frame.  When the content of such a
 * frame changes, so does the epoch: translations made before may be wrong. */
enum kdmp_status kdmp_overlay_note_table(struct kdmp_overlay *overlay,
                                         uint64_t pfn);
uint64_t kdmp_overlay_epoch(const struct kdmp_overlay *overlay);

/*
 * A translation cache of one address space, of 4 KiB pages, whatever the
 * page size.  Only reads use it, only translations that lead to a frame are
 * kept, and only one thread at a time may use it.  With an overlay (may be
 * NULL) it empties itself when a page table that it depends on is written.
 * Walks read every entry themselves, but have it remember where a mapped dump
 * has their tables: it is for one dump.
 */
enum kdmp_status kdmp_tlb_open(uint64_t capacity, struct kdmp_overlay *overlay,
                               struct kdmp_tlb **out);
void kdmp_tlb_close(struct kdmp_tlb *tlb);

/* Another capacity (> 0); the cache is empty then. */
enum kdmp_status kdmp_tlb_resize(struct kdmp_tlb *tlb, uint64_t capacity);

/* Forget everything, or one page: 1 if it was there. */
void kdmp_tlb_flush(struct kdmp_tlb *tlb);
int kdmp_tlb_flush_page(struct kdmp_tlb *tlb, uint64_t vaddr);

struct kdmp_tlb_info {
    uint64_t hits;
    uint64_t misses;
    uint64_t size; /* pages known */
    uint64_t capacity;
};

void kdmp_tlb_get_info(const struct kdmp_tlb *tlb, struct kdmp_tlb_info *out);

/* </cdef> */

#ifdef __cplusplus
}
#endif

#endif /* KDMP_H */
