/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What every monitor has: filter, counters, the head of a record. Each object
 * has maps of its own, so a monitor comes and goes by itself.
 */
#ifndef AEGIS_MONITORS_COMMON_H
#define AEGIS_MONITORS_COMMON_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "kernel_types.h"
#include "monitors/monitor.h"

/* Keeps the compiler from working with a copy of what was just compared. */
#ifndef barrier_var
#define barrier_var(var) asm volatile("" : "+r"(var))
#endif

#define CGROUP_LEVELS 16
#define PATH_LEVELS 40
#define NAME_BYTES 256
/* One of what a program is called with: the compiler may not choose among addresses of these. */
#define ARGUMENT(ctx, n)                                                                           \
	({                                                                                         \
		__u64 value_;                                                                      \
		asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(value_) : "r"(ctx), "i"((n)*8));      \
		value_;                                                                            \
	})
/* Of what has no size: the filter's min_bytes is not asked. */
#define NO_SIZE (~0ULL)

/* bpftool prog shows it, so that a monitor is found by its name there. */
#define MONITOR_NAME(text)                                                                         \
	volatile const char bpf_metadata_monitor[] SEC(".rodata") = text;                          \
	char LICENSE[] SEC("license") = "Dual BSD/GPL"

#define EVENTS(name, bytes)                                                                        \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                \
		__uint(max_entries, bytes);                                                        \
	} name SEC(".maps")

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct monitor_filter);
} filter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u8);
} filter_uids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8);
} filter_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct monitor_comm);
	__type(value, __u8);
} filter_comms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MONITOR_STATS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

static __always_inline void count(__u32 stat)
{
	__u64 *value = bpf_map_lookup_elem(&stats, &stat);

	/* Per CPU, but a program may be preempted by another here. */
	if (value)
		__sync_fetch_and_add(value, 1);
}

/*
 * Of the users of a CPU's buffer: a task that was preempted here may be one. Each adds itself
 * before it looks, so never two are alone; 5.10 has no fetch-and-add.
 */
static __always_inline void give_back(__u64 *users)
{
	__sync_fetch_and_add(users, -1);
}

static __always_inline int take(__u64 *users)
{
	__sync_fetch_and_add(users, 1);
	if (*(volatile __u64 *)users == 1)
		return 1;
	give_back(users);
	count(MONITOR_BUSY);
	return 0;
}

/* True when the process is in one of the cgroups, or below one. */
static __noinline int in_cgroups(struct task_struct *task)
{
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	struct cgroup_subsys_state *parent;
	__u64 id;

	for (int level = 0; level < CGROUP_LEVELS; level++) {
		if (!cgroup)
			return 0;
		id = BPF_CORE_READ(cgroup, kn, id);
		if (bpf_map_lookup_elem(&filter_cgroups, &id))
			return 1;
		parent = BPF_CORE_READ(cgroup, self.parent);
		if (!parent)
			return 0;
		cgroup = BPF_CORE_READ(parent, cgroup);
	}
	return 0;
}

/* Of the current process. */
static __always_inline int of_interest(const struct monitor_filter *f)
{
	struct monitor_comm comm = {};
	__u32 uid;

	if (!f->by_uid && !f->by_cgroup && !f->by_comm)
		return 1;
	if (f->by_uid) {
		uid = bpf_get_current_uid_gid();
		if (bpf_map_lookup_elem(&filter_uids, &uid))
			return 1;
	}
	if (f->by_comm) {
		bpf_get_current_comm(comm.text, sizeof(comm.text));
		if (bpf_map_lookup_elem(&filter_comms, &comm))
			return 1;
	}
	return f->by_cgroup && in_cgroups((void *)bpf_get_current_task());
}

/* Null where nothing is to be told, and where the current process is the reader itself. */
static __always_inline struct monitor_filter *active_filter(void)
{
	__u32 zero = 0, pid = bpf_get_current_pid_tgid() >> 32;
	struct monitor_filter *f = bpf_map_lookup_elem(&filter, &zero);

	return !f || f->off || pid == f->not_pid ? 0 : f;
}

static __always_inline int in_sample(const struct monitor_filter *f)
{
	return f->sample == ~0U || bpf_get_prandom_u32() < f->sample;
}

/* 1 when something of so many bytes is to be told of; counts it either way. */
static __always_inline int wanted(__u64 bytes)
{
	struct monitor_filter *f = active_filter();

	if (!f)
		return 0;
	count(MONITOR_SEEN);
	if (bytes < f->min_bytes || !of_interest(f)) {
		count(MONITOR_FILTERED);
		return 0;
	}
	if (!in_sample(f)) {
		count(MONITOR_SAMPLED_OUT);
		return 0;
	}
	return 1;
}

/* Linux 5.11 gives the current task as what a program may read in, without a call for each step. */
static __always_inline int gives_task(void)
{
	return bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf);
}

static __always_inline __u32 parent_pid(void)
{
	struct task_struct *task;

	if (gives_task())
		return bpf_get_current_task_btf()->real_parent->tgid;
	task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, real_parent, tgid);
}

/* The current process as the cause. */
static __always_inline void fill_head(struct monitor_head *head, __u16 type)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u64 owner = bpf_get_current_uid_gid();

	head->time_ns = bpf_ktime_get_boot_ns();
	head->cgroup = bpf_get_current_cgroup_id();
	head->pid = id >> 32;
	head->tid = (__u32)id;
	head->ppid = parent_pid();
	head->uid = (__u32)owner;
	head->gid = owner >> 32;
	head->type = type;
	head->flags = 0;
	bpf_get_current_comm(head->comm, sizeof(head->comm));
}

/* Names from the file upwards into MONITOR_PATH bytes; their length, and whether some are missing. */
static __noinline int names_of(struct dentry *dentry, char *to, __u16 *flags)
{
	struct dentry *parent;
	__u32 used = 0;
	long n;

	if (!to || !flags)
		return 0;
	for (int level = 0; level < PATH_LEVELS; level++) {
		parent = BPF_CORE_READ(dentry, d_parent);
		if (!parent || parent == dentry)
			return used;
		if (used > MONITOR_PATH - NAME_BYTES)
			break;
		n = bpf_probe_read_kernel_str(to + used, NAME_BYTES,
					      BPF_CORE_READ(dentry, d_name.name));
		if (n <= 0)
			break;
		used += n & (2 * NAME_BYTES - 1);
		dentry = parent;
	}
	*flags |= MONITOR_CUT;
	return used;
}

#endif
