/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What follows a match: counters first, then the event. Nothing here can change
 * the decision; an event that finds no room is counted and forgotten.
 */
#ifndef AEGIS_REPORT_H
#define AEGIS_REPORT_H

#define CGROUP_LEVELS 16
#define PATH_LEVELS 40

static __always_inline void count(__u32 stat)
{
	__u64 *value = bpf_map_lookup_elem(&block_stats, &stat);

	/* Per CPU, but a program may be preempted by another here. */
	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline void count_action(__u8 action, __u8 hook)
{
	if (action < AEGIS_BLOCK) {
		count(AEGIS_STAT_AUDITS);
		return;
	}
	count(AEGIS_STAT_BLOCKS);
	if (action == AEGIS_TERM)
		count(AEGIS_STAT_TERM);
	else if (action == AEGIS_KILL)
		count(AEGIS_STAT_KILL);
	else if (action == AEGIS_INT)
		count(AEGIS_STAT_INT);
	if (hook == AEGIS_HOOK_CONNECT)
		count(AEGIS_STAT_CONNECT_BLOCKS);
	else if (hook == AEGIS_HOOK_BIND)
		count(AEGIS_STAT_BIND_BLOCKS);
	else if (hook == AEGIS_HOOK_SENDMSG)
		count(AEGIS_STAT_SEND_BLOCKS);
}

static __always_inline void count_hit(__u64 uid, __u8 action, __u64 now)
{
	struct rule_hits zero = {}, *hits;

	hits = bpf_map_lookup_elem(&rule_hits, &uid);
	if (!hits) {
		bpf_map_update_elem(&rule_hits, &uid, &zero, BPF_NOEXIST);
		hits = bpf_map_lookup_elem(&rule_hits, &uid);
	}
	if (!hits) {
		count(AEGIS_STAT_HITS_LOST);
		return;
	}
	if (action >= AEGIS_BLOCK)
		__sync_fetch_and_add(&hits->blocks, 1);
	else
		__sync_fetch_and_add(&hits->audits, 1);
	hits->last_ns = now;
}

/* True when the process is in an allowed cgroup or below one. */
static __noinline int cgroup_allowed(__u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	struct slot s = { .index = slot };
	struct cgroup_subsys_state *parent;
	__u64 id;

	for (int level = 0; level < CGROUP_LEVELS; level++) {
		if (!cgroup)
			return 0;
		id = BPF_CORE_READ(cgroup, kn, id);
		if (slot_lookup(&allow_cgroup_map, &s, &id))
			return 1;
		parent = BPF_CORE_READ(cgroup, self.parent);
		if (!parent)
			return 0;
		cgroup = BPF_CORE_READ(parent, cgroup);
	}
	return 0;
}

static __always_inline int survives(struct inode *inode)
{
	struct inode_key key = {};
	__u32 *generation;

	if (!inode)
		return 0;
	key.ino = BPF_CORE_READ(inode, i_ino);
	key.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	generation = bpf_map_lookup_elem(&survival_allowlist, &key);
	return generation && *generation == BPF_CORE_READ(inode, i_generation);
}

static __always_inline int sampled_out(void)
{
	return bpf_get_prandom_u32() >= config_of(AEGIS_CONFIG_SAMPLE);
}

/* Which policy the slot holds, as far as 8 bytes can tell. */
static __always_inline __u64 bundle_of(__u32 slot)
{
	struct slot_info *info = bpf_map_lookup_elem(&slot_info, &slot);

	return info ? *(__u64 *)info->bundle : 0;
}

static __always_inline void fill_event(struct event *e, __u32 slot, const struct match *m,
				       const struct verdict *v, __u8 hook, __u64 now)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 id = bpf_get_current_pid_tgid();
	__u64 owner = bpf_get_current_uid_gid();

	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = now;
	e->cgroup = bpf_get_current_cgroup_id();
	e->rule = m->uid;
	e->bundle = bundle_of(slot);
	e->pid = id >> 32;
	e->tid = (__u32)id;
	e->ppid = BPF_CORE_READ(task, real_parent, tgid);
	e->uid = (__u32)owner;
	e->gid = owner >> 32;
	e->hook = hook;
	e->op = m->op;
	e->action = v->action;
	e->reason = v->reason;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	BPF_CORE_READ_STR_INTO(&e->parent_comm, task, real_parent, comm);
}

/* Names from the file upwards; see struct file_event. */
static __noinline int fill_path(struct file_event *e, struct dentry *dentry)
{
	struct dentry *parent;
	__u32 used = 0;
	long n;

	if (!e)
		return 0;
	e->path_cut = 1;
	for (int level = 0; level < PATH_LEVELS; level++) {
		parent = BPF_CORE_READ(dentry, d_parent);
		if (!parent || parent == dentry) {
			e->path_cut = 0;
			break;
		}
		if (used > AEGIS_EVENT_PATH - AEGIS_NAME_MAX)
			break;
		n = bpf_probe_read_kernel_str(e->path + used, AEGIS_NAME_MAX,
					      BPF_CORE_READ(dentry, d_name.name));
		if (n <= 0)
			break;
		used += n & (2 * AEGIS_NAME_MAX - 1);
		dentry = parent;
	}
	e->path_len = used;
	return 0;
}

static __always_inline void send_file_event(__u32 slot, const struct match *m,
					    const struct verdict *v, __u8 hook, __u64 now,
					    struct dentry *dentry, struct inode *inode)
{
	struct file_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count(AEGIS_STAT_RINGBUF_DROPS);
		return;
	}
	fill_event(&e->event, slot, m, v, hook, now);
	if (inode) {
		e->event.ino = BPF_CORE_READ(inode, i_ino);
		e->event.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	} else {
		e->event.dev = BPF_CORE_READ(dentry, d_parent, d_inode, i_sb, s_dev);
	}
	fill_path(e, dentry);
	bpf_ringbuf_submit(e, 0);
	count(AEGIS_STAT_EVENTS);
}

static __always_inline void send_net_event(__u32 slot, const struct match *m,
					   const struct verdict *v, __u8 hook, __u64 now,
					   const struct peer *p)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count(AEGIS_STAT_RINGBUF_DROPS);
		return;
	}
	fill_event(e, slot, m, v, hook, now);
	e->family = p->family;
	e->protocol = p->protocol;
	e->port = p->port;
	__builtin_memcpy(e->addr, p->addr, sizeof(e->addr));
	bpf_ringbuf_submit(e, 0);
	count(AEGIS_STAT_EVENTS);
}

static __always_inline struct verdict judge(const struct slot *s, const struct match *m,
					    int survival, __u64 now)
{
	struct circumstances c = {
		.deadline = config_of(AEGIS_CONFIG_DEADLINE),
		.now = now,
		.mode = config_of(AEGIS_CONFIG_MODE),
		.enforce = m->enforce,
		.signal = m->signal,
		.cgroup_allowed = cgroup_allowed(s->index),
		.survival = survival,
	};

	return decide(&c);
}

/* Counts and signals. Returns 1 when there is an event to send. */
static __always_inline int account(const struct match *m, const struct verdict *v, __u8 hook,
				   __u64 now)
{
	if (v->action == AEGIS_ALLOW) {
		count(AEGIS_STAT_CGROUP_ALLOWED);
		return 0;
	}
	if (v->reason == AEGIS_REASON_SURVIVAL)
		count(AEGIS_STAT_SURVIVAL_ALLOWED);
	count_action(v->action, hook);
	if (m->uid)
		count_hit(m->uid, v->action, now);
	if (v->action > AEGIS_BLOCK)
		bpf_send_signal(m->signal);
	if (sampled_out()) {
		count(AEGIS_STAT_SAMPLED_OUT);
		return 0;
	}
	return 1;
}

#endif
