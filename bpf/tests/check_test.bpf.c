/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The hooks without their LSM, on files and sockets that the caller has open: what
 * a hook would have answered is the program's result, and nothing is denied.
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
#include "check.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct file___private {
	void *private_data;
} CORE;

static __always_inline struct file *file_of(__u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct file **table = BPF_CORE_READ(task, files, fdt, fd);
	struct file *file = 0;

	bpf_probe_read_kernel(&file, sizeof(file), table + fd);
	return file;
}

static __always_inline struct socket *socket_of(__u32 fd)
{
	struct file___private *file = (void *)file_of(fd);

	return BPF_CORE_READ(file, private_data);
}

static __always_inline __u64 sock_of(__u32 fd)
{
	struct socket *socket = socket_of(fd);

	return (__u64)BPF_CORE_READ(socket, sk);
}

/* A pointer as a plain number. */
static __always_inline __u64 number_of(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

struct file_case {
	__u32 fd;
	__u32 ops;
	__u32 move;
	__u32 hook;
	__u32 nameless; /* as if the name had no file yet */
	__u32 pad;
};

SEC("syscall")
int test_file(struct file_case *t)
{
	struct file *file = file_of(t->fd);
	struct inode *inode = t->nameless ? 0 : BPF_CORE_READ(file, f_inode);

	return check_file(BPF_CORE_READ(file, f_path.dentry), inode, t->ops, t->move, t->hook);
}

#define CASE_BYTES 1024

struct net_case {
	__u32 fd;
	__u32 op;
	__u32 hook;
	__u32 length;
	__u32 port; /* of the control messages, network byte order */
	__u32 pad;
	__u8 bytes[CASE_BYTES];
};

SEC("syscall")
int test_net(struct net_case *t)
{
	__u64 address = number_of(t) + __builtin_offsetof(struct net_case, bytes);

	return check_net(socket_of(t->fd), (void *)address, t->op, t->hook);
}

SEC("syscall")
int test_list(struct net_case *t)
{
	__u64 at = number_of(t) + __builtin_offsetof(struct net_case, bytes);

	return check_list(sock_of(t->fd), at, t->length, t->op, t->hook);
}

SEC("syscall")
int test_control(struct net_case *t)
{
	__u64 at = number_of(t) + __builtin_offsetof(struct net_case, bytes);

	return check_control(sock_of(t->fd), at, t->length, t->port);
}
