/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Kernel memory and pages: totals of all, by process and size, and a record of each that is large
 * enough. The filter's min_bytes 0: no records; 1: of each, those without a known size too.
 */
#include "monitors/common.h"

MONITOR_NAME("memory-monitor");
EVENTS(MEMORY_EVENTS, 1 << 20);

#define PAGE_SHIFT 12
#define LARGEST_CLASS 63
/* What kmalloc(0) gives; what is below is no memory either. */
#define ZERO_SIZE_PTR 16

/*
 * One for all CPUs, as most entries are one process's, which runs on one at a time; made in
 * advance, as to allocate here would call these programs anew. Full: what is new is counted as
 * untracked, and no count that is there is ever thrown away. User space deletes those of ended
 * processes. Interrupts have pid 0.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct memory_key);
	__type(value, struct memory_total);
} MEMORY_TOTALS SEC(".maps");

/* Whether this CPU serves an interrupt: what it does then is not the current process's doing. */
struct interrupts {
	__u32 soft;
	__u32 hard;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct interrupts);
} INTERRUPTS SEC(".maps");

static __always_inline struct interrupts *interrupts(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&INTERRUPTS, &zero);
}

static __always_inline int in_interrupt(void)
{
	struct interrupts *here = interrupts();

	return here && (here->soft || here->hard);
}

static __always_inline __u8 size_class(__u64 bytes)
{
	__u64 above = bytes - 1;
	__u8 class = 1;

	if (!bytes)
		return 0;
#pragma unroll
	for (int shift = 32; shift; shift >>= 1) {
		if (above >> shift) {
			above >>= shift;
			class += shift;
		}
	}
	return class;
}

static __always_inline void add_total(__u16 type, __u64 bytes, int interrupt)
{
	struct memory_key key = { .type = type, .size_class = size_class(bytes) };
	struct memory_total *total, none = {};

	if (!interrupt)
		key.pid = bpf_get_current_pid_tgid() >> 32;
	total = bpf_map_lookup_elem(&MEMORY_TOTALS, &key);
	if (!total) {
		bpf_map_update_elem(&MEMORY_TOTALS, &key, &none, BPF_NOEXIST);
		total = bpf_map_lookup_elem(&MEMORY_TOTALS, &key);
	}
	if (!total) {
		count(MONITOR_UNTRACKED);
		return;
	}
	__sync_fetch_and_add(&total->count, 1);
	if (bytes)
		__sync_fetch_and_add(&total->bytes, bytes);
	if (!interrupt)
		bpf_get_current_comm(total->comm, sizeof(total->comm));
}

static __always_inline void send(__u16 type, __u64 bytes, __u32 order, int interrupt)
{
	struct memory_event *e = bpf_ringbuf_reserve(&MEMORY_EVENTS, sizeof(*e), 0);

	if (!e) {
		count(MONITOR_DROPPED);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	fill_head(&e->head, type);
	if (interrupt)
		e->head.flags |= MONITOR_NOT_CAUSE;
	e->bytes = bytes;
	e->order = order;
	bpf_ringbuf_submit(e, 0);
	count(MONITOR_SENT);
}

static __always_inline int is_large_enough(const struct monitor_filter *f, __u64 bytes)
{
	return f->min_bytes && (bytes >= f->min_bytes || (!bytes && f->min_bytes == 1));
}

/* What an interrupt does is nobody's: no user, cgroup or command asked for it. */
static __always_inline int is_of_interest(const struct monitor_filter *f, int interrupt)
{
	if (interrupt)
		return !f->by_uid && !f->by_cgroup && !f->by_comm;
	return of_interest(f);
}

static __always_inline int tell(__u16 type, __u64 bytes, __u32 order)
{
	struct monitor_filter *f = active_filter();
	int interrupt;

	if (!f)
		return 0;
	count(MONITOR_SEEN);
	interrupt = in_interrupt();
	if (!is_of_interest(f, interrupt)) {
		count(MONITOR_FILTERED);
		return 0;
	}
	add_total(type, bytes, interrupt);
	if (!is_large_enough(f, bytes))
		count(MONITOR_FILTERED);
	else if (!in_sample(f))
		count(MONITOR_SAMPLED_OUT);
	else
		send(type, bytes, order, interrupt);
	return 0;
}

/* The second argument; up to 6.1 the verifier lets nobody look at what is a const void pointer. */
static __always_inline int is_memory(__u64 *ctx)
{
	__u64 at = 0;

	bpf_probe_read_kernel(&at, sizeof(at), ctx + 1);
	return at > ZERO_SIZE_PTR;
}

/*
 * (call site, memory, bytes asked for, bytes given, …). The first program of the object: bpftool
 * prog load pins that one only, and the maps that it uses.
 */
SEC("tp_btf/kmalloc")
int kmem_kmalloc(__u64 *ctx)
{
	return is_memory(ctx) ? tell(MEMORY_KMALLOC, ctx[2], 0) : 0;
}

#ifdef WITH_NODES
/* Linux before 6.1 has this for some of them. */
SEC("tp_btf/kmalloc_node")
int kmem_kmalloc_node(__u64 *ctx)
{
	return is_memory(ctx) ? tell(MEMORY_KMALLOC, ctx[2], 0) : 0;
}
#endif

SEC("tp_btf/kfree")
int kmem_kfree(__u64 *ctx)
{
	return is_memory(ctx) ? tell(MEMORY_KFREE, 0, 0) : 0;
}

static __always_inline int pages(__u16 type, __u64 page, __u32 order)
{
	if (!page || order > LARGEST_CLASS - PAGE_SHIFT)
		return 0;
	return tell(type, 1ULL << (PAGE_SHIFT + order), order);
}

SEC("tp_btf/mm_page_alloc")
int kmem_mm_page_alloc(__u64 *ctx)
{
	return pages(MEMORY_PAGE_ALLOC, ctx[0], ctx[1]);
}

SEC("tp_btf/mm_page_free")
int kmem_mm_page_free(__u64 *ctx)
{
	return pages(MEMORY_PAGE_FREE, ctx[0], ctx[1]);
}

static __always_inline int set_soft(__u32 value)
{
	struct interrupts *here = interrupts();

	if (here)
		here->soft = value;
	return 0;
}

static __always_inline int set_hard(__u32 value)
{
	struct interrupts *here = interrupts();

	if (here)
		here->hard = value;
	return 0;
}

/*
 * The preempt count says the same, but a program can read it only where the kernel keeps the names
 * of variables. Neither kind of interrupt is interrupted by its own kind.
 */
SEC("tp_btf/softirq_entry")
int softirq_entry(__u64 *ctx)
{
	return set_soft(1);
}

SEC("tp_btf/softirq_exit")
int softirq_exit(__u64 *ctx)
{
	return set_soft(0);
}

SEC("tp_btf/irq_handler_entry")
int irq_handler_entry(__u64 *ctx)
{
	return set_hard(1);
}

SEC("tp_btf/irq_handler_exit")
int irq_handler_exit(__u64 *ctx)
{
	return set_hard(0);
}
