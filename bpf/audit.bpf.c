/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Audit without BPF LSM: compares the path that a system call was given with the
 * rules' paths. It sees no links, no relative paths and no directories, and it
 * cannot refuse. tp_btf, not the openat tracepoint itself: its link can be pinned
 * on 5.10 as well.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "kernel_types.h"
#include "aegis.h"
#include "maps.h"
#include "decide.h"
#include "match.h"
#include "report.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* arch/x86/entry/syscalls/syscall_64.tbl */
#define NR_OPEN 2
#define NR_EXECVE 59
#define NR_TRUNCATE 76
#define NR_CREAT 85
#define NR_OPENAT 257
#define NR_EXECVEAT 322
#define NR_OPENAT2 437

#define ACCESS_MODE 3

struct call {
	const char *path;
	__u32 ops;
};

static __always_inline __u32 ops_of_flags(__u32 flags)
{
	return ops_of_open(flags & OPEN_TRUNC, (flags & ACCESS_MODE) + 1);
}

static __always_inline int call_of(struct call *c, struct pt_regs *regs, long nr)
{
	__u64 flags = 0;

	switch (nr) {
	case NR_OPENAT:
		c->path = (void *)BPF_CORE_READ(regs, si);
		c->ops = ops_of_flags(BPF_CORE_READ(regs, dx));
		return 1;
	case NR_OPENAT2:
		c->path = (void *)BPF_CORE_READ(regs, si);
		bpf_probe_read_user(&flags, sizeof(flags), (void *)BPF_CORE_READ(regs, dx));
		c->ops = ops_of_flags(flags);
		return 1;
	case NR_OPEN:
		c->path = (void *)BPF_CORE_READ(regs, di);
		c->ops = ops_of_flags(BPF_CORE_READ(regs, si));
		return 1;
	case NR_CREAT:
	case NR_TRUNCATE:
		c->path = (void *)BPF_CORE_READ(regs, di);
		c->ops = OP(WRITE);
		return 1;
	case NR_EXECVE:
		c->path = (void *)BPF_CORE_READ(regs, di);
		c->ops = OP(EXEC);
		return 1;
	case NR_EXECVEAT:
		c->path = (void *)BPF_CORE_READ(regs, si);
		c->ops = OP(EXEC);
		return 1;
	}
	return 0;
}

static __noinline struct file_entry *path_entry(const char *path, __u32 slot)
{
	struct slot s = { .index = slot };
	struct path_key key;
	struct file_entry *e;

	__builtin_memset(&key, 0, sizeof(key));
	bpf_probe_read_user_str(key.path, sizeof(key.path), path);
	e = slot_lookup(&audit_path_map, &s, &key);
	return e;
}

static __always_inline void send_path_event(__u32 slot, const struct match *m,
					    const struct verdict *v, __u64 now, const char *path)
{
	struct file_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	long n;

	if (!e) {
		count(AEGIS_STAT_RINGBUF_DROPS);
		return;
	}
	fill_event(&e->event, slot, m, v, AEGIS_HOOK_SYSCALL, now);
	n = bpf_probe_read_user_str(e->path, AEGIS_NAME_MAX, path);
	e->path_len = n > 0 ? n : 0;
	e->path_cut = 0;
	bpf_ringbuf_submit(e, 0);
	count(AEGIS_STAT_EVENTS);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(aegis_sys_enter, struct pt_regs *regs, long nr)
{
	struct verdict v = { AEGIS_AUDIT, AEGIS_REASON_FALLBACK };
	struct file_entry *e;
	struct match m = {};
	struct slot s = {};
	struct call c = {};
	__u64 now;

	if (!call_of(&c, regs, nr) || !slot_of(&s, AEGIS_KIND_AUDIT_PATH))
		return 0;
	e = path_entry(c.path, s.index);
	if (!e)
		return 0;
	consider_file(&m, &s, e, c.ops);
	if (!m.uid)
		return 0;
	if (cgroup_allowed(s.index)) {
		v.action = AEGIS_ALLOW;
		v.reason = AEGIS_REASON_CGROUP;
	}
	now = bpf_ktime_get_boot_ns();
	if (account(&m, &v, AEGIS_HOOK_SYSCALL, now))
		send_path_event(s.index, &m, &v, now, c.path);
	return 0;
}
