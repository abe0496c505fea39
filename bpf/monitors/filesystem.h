/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What all variants of filesystem-monitor do once they know the file and the
 * result. Told of are regular files (those of /proc and /sys, and memfds, are),
 * directories and block devices: no sockets, pipes, character devices, nor what
 * only has a descriptor, as eventfds and pidfds. What mmap, sendfile, splice,
 * copy_file_range and io_uring move is not told of, nor what io_uring opens:
 * none of these calls is made for it.
 */
#ifndef AEGIS_MONITORS_FILESYSTEM_H
#define AEGIS_MONITORS_FILESYSTEM_H

#include "monitors/common.h"

MONITOR_NAME("filesystem-monitor");
EVENTS(FS_EVENTS, 1 << 19);

#define S_IFMT 0170000
#define S_IFBLK 0060000
#define S_IFDIR 0040000
#define S_IFREG 0100000
/* include/linux/fs.h: of the kernel's own, as of pidfds, which are regular files since 6.9. */
#define S_PRIVATE (1 << 9)
/* The kernel adds it to each open of a 64-bit program. */
#define O_LARGEFILE 0100000

#define EINTR 4
#define ERESTARTSYS 512
#define ERESTART_RESTARTBLOCK 516

struct scratch {
	__u64 users;
	struct filesystem_event event;
	char text[MONITOR_PATH];
};

/* The record of an open as it is made: too long for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} FILENAME_BUF SEC(".maps");

struct file_id {
	__u64 ino;
	__u32 dev;
	__u32 pad;
};

/* How a file came to be known: as an argument, its members are read without a call for each. */
#define BY_NUMBER 0
#define AS_ARGUMENT 1
#define MEMBER(as, from, name) ((as) ? (from)->name : BPF_CORE_READ(from, name))

/* Which file it is; 0 where it is of no kind that is told of. */
static __always_inline int identify(struct file *file, int as, struct file_id *id)
{
	struct inode *inode = MEMBER(as, file, f_inode);
	__u32 kind = MEMBER(as, inode, i_mode) & S_IFMT;
	struct super_block *sb;

	if (kind == S_IFREG) {
		if (MEMBER(as, inode, i_flags) & S_PRIVATE)
			return 0;
	} else if (kind != S_IFDIR && kind != S_IFBLK) {
		return 0;
	}
	sb = MEMBER(as, inode, i_sb);
	id->ino = MEMBER(as, inode, i_ino);
	id->dev = MEMBER(as, sb, s_dev);
	id->pad = 0;
	return 1;
}

/* The kernel's own numbers, which no program ever sees, mean that a signal came. */
static __always_inline __s32 result_of(__s64 result)
{
	if (result <= -ERESTARTSYS && result >= -ERESTART_RESTARTBLOCK)
		return -EINTR;
	return result;
}

static __always_inline void tell(__u16 type, const struct file_id *id, __u64 bytes, __s64 result)
{
	struct filesystem_event *e = bpf_ringbuf_reserve(&FS_EVENTS, sizeof(*e), 0);

	if (!e) {
		count(MONITOR_DROPPED);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	fill_head(&e->head, type);
	e->bytes = bytes;
	e->ino = id->ino;
	e->dev = id->dev;
	e->result = result_of(result);
	bpf_ringbuf_submit(e, 0);
	count(MONITOR_SENT);
}

/*
 * The filter, or null for what it does not let through, which is counted. Asked first, as most
 * processes are of no interest to anybody; what their descriptors stand for is never looked at.
 */
static __always_inline struct monitor_filter *asked_for(__u64 bytes)
{
	struct monitor_filter *f = active_filter();

	if (!f)
		return 0;
	if (bytes >= f->min_bytes && of_interest(f))
		return f;
	count(MONITOR_SEEN);
	count(MONITOR_FILTERED);
	return 0;
}

/* Something that was asked for; 1 when it is to be told of. */
static __always_inline int sampled(struct monitor_filter *f)
{
	count(MONITOR_SEEN);
	if (in_sample(f))
		return 1;
	count(MONITOR_SAMPLED_OUT);
	return 0;
}

static __always_inline __u64 bytes_of(__s64 result)
{
	return result > 0 ? result : 0;
}

/* A read or write came to its end. */
static __always_inline void moved(struct monitor_filter *f, __u16 type, struct file *file, int as,
				  __s64 result)
{
	struct file_id id;

	if (identify(file, as, &id) && sampled(f))
		tell(type, &id, bytes_of(result), result);
}

static __always_inline void send(struct scratch *s)
{
	__u64 size = s->event.path_len;

	barrier_var(size);
	if (size > MONITOR_PATH)
		return;
	size += sizeof(s->event);
	if (bpf_ringbuf_output(&FS_EVENTS, &s->event, size, 0))
		count(MONITOR_DROPPED);
	else
		count(MONITOR_SENT);
}

static __always_inline void add_file(struct scratch *s, struct file *file, const struct file_id *id)
{
	struct filesystem_event *e = &s->event;

	e->ino = id->ino;
	e->dev = id->dev;
	e->path_len = names_of(BPF_CORE_READ(file, f_path.dentry), s->text, &e->head.flags);
}

/* An open came to its end; without file where it failed: what it would have been is not known. */
static __always_inline void opened(struct monitor_filter *f, struct file *file, __s64 result,
				   __u32 flags)
{
	struct file_id id = {};
	__u32 zero = 0;
	struct scratch *s;

	if ((file && !identify(file, BY_NUMBER, &id)) || !sampled(f))
		return;
	s = bpf_map_lookup_elem(&FILENAME_BUF, &zero);
	if (!s || !take(&s->users))
		return;
	__builtin_memset(&s->event, 0, sizeof(s->event));
	fill_head(&s->event.head, FILESYSTEM_OPEN);
	s->event.result = result_of(result);
	s->event.open_flags = flags & ~O_LARGEFILE;
	if (file)
		add_file(s, file, &id);
	send(s);
	give_back(&s->users);
}

/* What the descriptor of the current process stands for, or null. */
static __always_inline struct file *file_of(__u32 fd)
{
	struct file **files = 0, *file = 0;
	struct task_struct *task;
	struct fdtable *table;
	__u32 size;

	if (gives_task()) {
		table = bpf_get_current_task_btf()->files->fdt;
		size = table->max_fds;
		files = table->fd;
	} else {
		task = (void *)bpf_get_current_task();
		table = BPF_CORE_READ(task, files, fdt);
		size = BPF_CORE_READ(table, max_fds);
		files = BPF_CORE_READ(table, fd);
	}
	if (fd < size)
		bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	return file;
}

static __always_inline void opened_as(__s64 result, __u32 flags)
{
	struct monitor_filter *f = asked_for(NO_SIZE);
	struct file *file = 0;

	if (!f)
		return;
	if (result >= 0)
		file = file_of(result);
	/* Another thread closed it at once. */
	if (result >= 0 && !file)
		count(MONITOR_UNTRACKED);
	else
		opened(f, file, result, flags);
}

#endif
