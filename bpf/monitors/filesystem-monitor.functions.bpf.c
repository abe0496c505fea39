/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Files that are opened, read, written and closed, by the functions that do it:
 * with the very file, for 32-bit programs too, and with closes however they come
 * about: close, dup2, close_range, exec, exit.
 */
#include <linux/openat2.h>

#include "monitors/filesystem.h"

/* Until 6.6 close(2) itself calls filp_close; since then both call filp_flush. */
#ifndef CLOSE
#define CLOSE "filp_flush"
#endif

SEC("fexit/do_sys_openat2")
int trace_do_sys_open(__u64 *ctx)
{
	__u64 flags = 0;

	bpf_probe_read_kernel(&flags, sizeof(flags), &((struct open_how *)ctx[2])->flags);
	opened_as((__s32)ctx[3], flags);
	return 0;
}

static __always_inline int transferred(__u16 type, __u64 *ctx, int arguments)
{
	__s64 result = ctx[arguments];
	struct monitor_filter *f = asked_for(bytes_of(result));

	if (f)
		moved(f, type, (void *)ctx[0], AS_ARGUMENT, result);
	return 0;
}

SEC("fexit/vfs_read")
int trace_do_sys_read(__u64 *ctx)
{
	return transferred(FILESYSTEM_READ, ctx, 4);
}

SEC("fexit/vfs_readv")
int trace_do_sys_readv(__u64 *ctx)
{
	return transferred(FILESYSTEM_READ, ctx, 5);
}

SEC("fexit/vfs_write")
int trace_do_sys_write(__u64 *ctx)
{
	return transferred(FILESYSTEM_WRITE, ctx, 4);
}

SEC("fexit/vfs_writev")
int trace_do_sys_writev(__u64 *ctx)
{
	return transferred(FILESYSTEM_WRITE, ctx, 5);
}

/* At the end, for the result: the file is let go of when the system call returns. */
SEC("fexit/" CLOSE)
int trace_do_sys_close(__u64 *ctx)
{
	struct monitor_filter *f = asked_for(NO_SIZE);
	struct file *file = (void *)ctx[0];
	struct file_id id;

	if (f && identify(file, AS_ARGUMENT, &id) && sampled(f))
		tell(FILESYSTEM_CLOSE, &id, 0, (__s32)ctx[2]);
	return 0;
}
