/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What the kernel calls the files that the reading process has open.
 *
 * stat(2) is no source for a key: on overlayfs and btrfs st_dev is not s_dev,
 * and a key made from it never matches. This reads the very fields that
 * match.h reads.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "kernel_types.h"
#include "aegis.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("iter/task_file")
int inode_keys(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct inode_id id = {};
	struct inode *inode;

	if (!task || !file || task->tgid != (int)(bpf_get_current_pid_tgid() >> 32) ||
	    task->pid != task->tgid)
		return 0;
	inode = file->f_inode;
	id.fd = ctx->fd;
	id.ino = inode->i_ino;
	id.dev = inode->i_sb->s_dev;
	id.generation = inode->i_generation;
	id.mode = inode->i_mode;
	bpf_seq_write(ctx->meta->seq, &id, sizeof(id));
	return 0;
}
