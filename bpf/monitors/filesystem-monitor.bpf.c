/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Files that are opened, read, written and closed, by the system calls for it:
 * on every kernel, but what another thread does to the same descriptor meanwhile
 * shows, and closes are those by close(2) only. Calls of 32-bit programs have
 * other numbers and are counted as untracked.
 */
#include <asm/unistd_64.h>

#include "monitors/filesystem.h"

#ifndef __TARGET_ARCH_x86
#error "the numbers of system calls are those of x86-64"
#endif

/* arch/x86/include/asm/thread_info.h */
#define TS_COMPAT 2
#define O_PATH 010000000
#define CREAT_FLAGS 01101
#define EBADF 9

/* Files on their way through close(2), by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct file_id);
} CLOSING SEC(".maps");

static __always_inline __u16 type_of(__u64 number)
{
	switch (number) {
	case __NR_open:
	case __NR_creat:
	case __NR_openat:
	case __NR_openat2:
		return FILESYSTEM_OPEN;
	case __NR_read:
	case __NR_pread64:
	case __NR_readv:
	case __NR_preadv:
	case __NR_preadv2:
		return FILESYSTEM_READ;
	case __NR_write:
	case __NR_pwrite64:
	case __NR_writev:
	case __NR_pwritev:
	case __NR_pwritev2:
		return FILESYSTEM_WRITE;
	case __NR_close:
		return FILESYSTEM_CLOSE;
	}
	return 0;
}

/* The same calls as a 32-bit program numbers them: arch/x86/entry/syscalls/syscall_32.tbl. */
static __always_inline int is_compat_call(__u64 number)
{
	switch (number) {
	case 3: /* read */
	case 4: /* write */
	case 5: /* open */
	case 6: /* close */
	case 8: /* creat */
	case 145: /* readv */
	case 146: /* writev */
	case 180: /* pread64 */
	case 181: /* pwrite64 */
	case 295: /* openat */
	case 333: /* preadv */
	case 334: /* pwritev */
	case 378: /* preadv2 */
	case 379: /* pwritev2 */
	case 437: /* openat2 */
		return 1;
	}
	return 0;
}

static __always_inline int by_compat(void)
{
	struct task_struct *task;

	if (gives_task())
		return bpf_get_current_task_btf()->thread_info.status & TS_COMPAT;
	task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
}

static __always_inline __u32 flags_of(struct pt_regs *regs, __u64 number)
{
	__u64 flags = 0;

	switch (number) {
	case __NR_open:
		return regs->si;
	case __NR_openat:
		return regs->dx;
	case __NR_creat:
		return CREAT_FLAGS;
	}
	bpf_probe_read_user(&flags, sizeof(flags), (void *)regs->dx);
	return flags;
}

static __always_inline void end_of_close(__s64 result)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct file_id *closing = bpf_map_lookup_elem(&CLOSING, &thread);
	struct monitor_filter *f;
	struct file_id id;

	if (!closing)
		return;
	id = *closing;
	bpf_map_delete_elem(&CLOSING, &thread);
	/* Another thread may have been faster. */
	if (result == -EBADF)
		return;
	f = asked_for(NO_SIZE);
	if (f && sampled(f))
		tell(FILESYSTEM_CLOSE, &id, 0, result);
}

static __always_inline void end_of_move(__u16 type, __u32 fd, __s64 result)
{
	struct monitor_filter *f = asked_for(bytes_of(result));
	struct file *file;

	if (!f)
		return;
	file = file_of(fd);
	if (!file && result >= 0)
		count(MONITOR_UNTRACKED);
	/* Refused before the file is looked at. */
	else if (result != -EBADF || !(BPF_CORE_READ(file, f_flags) & O_PATH))
		moved(f, type, file, BY_NUMBER, result);
}

static __always_inline void count_compat(void)
{
	struct monitor_filter *f = active_filter();

	if (f && of_interest(f))
		count(MONITOR_UNTRACKED);
}

/* The first, as it is what bpftool prog load takes of an object. */
SEC("tp_btf/sys_exit")
int trace_sys_exit(__u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	__u64 number = regs->orig_ax;
	__u16 type = type_of(number);
	__s64 result = ctx[1];

	if (!type && !is_compat_call(number))
		return 0;
	if (by_compat()) {
		if (is_compat_call(number))
			count_compat();
	} else if (type == FILESYSTEM_OPEN) {
		opened_as(result, flags_of(regs, number));
	} else if (type == FILESYSTEM_CLOSE) {
		end_of_close(result);
	} else if (type) {
		end_of_move(type, regs->di, result);
	}
	return 0;
}

/*
 * The file is gone at the call's end, its result not known at the beginning. What was left behind
 * where this began to be told of in the middle of a call is forgotten.
 */
SEC("tp_btf/sys_enter")
int trace_sys_enter(__u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	__u64 thread = bpf_get_current_pid_tgid();
	struct file_id id;
	struct file *file;

	if (ctx[1] != __NR_close || by_compat())
		return 0;
	file = asked_for(NO_SIZE) ? file_of(regs->di) : 0;
	if (!identify(file, BY_NUMBER, &id)) {
		bpf_map_delete_elem(&CLOSING, &thread);
		return 0;
	}
	if (bpf_map_update_elem(&CLOSING, &thread, &id, BPF_ANY))
		count(MONITOR_UNTRACKED);
	return 0;
}
