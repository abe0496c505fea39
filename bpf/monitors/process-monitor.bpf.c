/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Programs that begin, and processes that end. */
#include "monitors/common.h"

MONITOR_NAME("process-monitor");
EVENTS(PROCESS_EVENTS, 1 << 20);

#define SIGNAL_GROUP_EXIT 4

struct scratch {
	__u64 users;
	struct process_event event;
	char text[MONITOR_PATH + MONITOR_ARGS];
};

/* A record as it is made: too long for the stack, and of a length that is known at its end. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} CMDLINE_BUF SEC(".maps");

/* Processes whose end was told of: two threads that end at once both take themselves for the last. */
struct ended {
	__u64 start;
	__u64 pid;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct ended);
	__type(value, __u8);
} ENDED SEC(".maps");

static __always_inline void add_path(struct scratch *s, struct file *file)
{
	struct process_event *e = &s->event;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u32 length;

	e->ino = BPF_CORE_READ(inode, i_ino);
	e->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	length = names_of(BPF_CORE_READ(file, f_path.dentry), s->text, &e->head.flags);
	if (length > MONITOR_PATH)
		length = MONITOR_PATH;
	e->path_len = length;
}

static __always_inline void add_arguments(struct scratch *s, struct task_struct *task)
{
	struct process_event *e = &s->event;
	__u64 start = BPF_CORE_READ(task, mm, arg_start);
	__u64 length = BPF_CORE_READ(task, mm, arg_end) - start;
	__u64 at = e->path_len;

	e->args_total = length;
	if (length > MONITOR_ARGS) {
		length = MONITOR_ARGS;
		e->head.flags |= MONITOR_CUT;
	}
	barrier_var(length);
	barrier_var(at);
	if (at > MONITOR_PATH || length > MONITOR_ARGS)
		return;
	if (bpf_probe_read_user(s->text + at, length, (void *)start)) {
		e->head.flags |= MONITOR_CUT;
		return;
	}
	e->args_len = length;
}

static __always_inline void send(struct scratch *s)
{
	__u64 size = sizeof(s->event) + s->event.path_len + s->event.args_len;

	if (size > sizeof(s->event) + sizeof(s->text))
		return;
	if (bpf_ringbuf_output(&PROCESS_EVENTS, &s->event, size, 0))
		count(MONITOR_DROPPED);
	else
		count(MONITOR_SENT);
}

/* Of this CPU; null where it is in use. */
static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&CMDLINE_BUF, &zero);

	if (!s || !take(&s->users))
		return 0;
	__builtin_memset(&s->event, 0, sizeof(s->event));
	return s;
}

SEC("tp_btf/sched_process_exec")
int sched_process_exec(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct linux_binprm *bprm = (void *)ctx[2];
	struct scratch *s;

	if (!wanted(NO_SIZE))
		return 0;
	s = scratch();
	if (!s)
		return 0;
	fill_head(&s->event.head, PROCESS_EXEC);
	add_path(s, BPF_CORE_READ(bprm, file));
	add_arguments(s, task);
	send(s);
	give_back(&s->users);
	return 0;
}

/* A thread ends; the process does with the last of them. True once a process. */
static __always_inline int is_end_of(struct task_struct *task)
{
	struct ended key = {};
	__u8 one = 1;

	if (BPF_CORE_READ(task, signal, live.counter) > 0)
		return 0;
	key.start = BPF_CORE_READ(task, group_leader, start_boottime);
	key.pid = BPF_CORE_READ(task, tgid);
	return !bpf_map_update_elem(&ENDED, &key, &one, BPF_NOEXIST);
}

/* As waitpid() has it (kernel/exit.c, wait_task_zombie). */
static __always_inline __u32 status_of(struct task_struct *task)
{
	if (BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT)
		return BPF_CORE_READ(task, signal, group_exit_code);
	return BPF_CORE_READ(task, group_leader, exit_code);
}

SEC("tp_btf/sched_process_exit")
int sched_process_exit(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct process_event *e;

	if (!is_end_of(task) || !wanted(NO_SIZE))
		return 0;
	e = bpf_ringbuf_reserve(&PROCESS_EVENTS, sizeof(*e), 0);
	if (!e) {
		count(MONITOR_DROPPED);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	fill_head(&e->head, PROCESS_EXIT);
	e->status = status_of(task);
	e->age_ns = e->head.time_ns - BPF_CORE_READ(task, group_leader, start_boottime);
	bpf_ringbuf_submit(e, 0);
	count(MONITOR_SENT);
	return 0;
}
