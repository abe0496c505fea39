/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Enforcement: the LSM hooks. Each asks for a match and lets finish_*() answer. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "kernel_types.h"
/* file_mprotect also asks of a dentry that no argument leads to: see opened_above(). */
#define TYPED(hook) ((hook) != AEGIS_HOOK_MPROTECT)
#include "aegis.h"
#include "maps.h"
#include "decide.h"
#include "match.h"
#include "report.h"
#include "check.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PROT_EXEC 4
#define SOCK_STREAM 1
#define MSG_FASTOPEN 0x20000000

SEC("lsm/file_open")
int BPF_PROG(aegis_file_open, struct file *file, int ret)
{
	__u32 ops = ops_of_open(file->f_flags, file->f_mode);

	if (ret)
		return ret;
	return check_file(file->f_path.dentry, file->f_inode, ops, 0, AEGIS_HOOK_OPEN);
}

/*
 * A program started through its loader is opened for reading and then mapped.
 * A file that execve opened has been asked about already; no open(2) can set
 * FMODE_EXEC.
 */
static __always_inline int check_mapping(struct file *file, unsigned long prot, __u8 hook)
{
	if (!(prot & PROT_EXEC) || !file || (LOAD(TYPED(hook), file, f_flags) & FMODE_EXEC))
		return 0;
	return check_file(LOAD(TYPED(hook), file, f_path.dentry), LOAD(TYPED(hook), file, f_inode),
			  OP(EXEC), 0, hook);
}

SEC("lsm/mmap_file")
int BPF_PROG(aegis_mmap_file, struct file *file, unsigned long reqprot, unsigned long prot,
	     unsigned long flags, int ret)
{
	if (ret)
		return ret;
	return check_mapping(file, prot, AEGIS_HOOK_MMAP);
}

/*
 * The file of a mapping on an overlay is the one below. Since Linux 6.7 (commit
 * def3ae83da02) its path is, too; the one that was opened stands beside it. Where
 * the flag means something else there is no dentry beside, and nothing matches.
 */
static __always_inline struct dentry *opened_above(struct file *file)
{
	if (!bpf_core_field_exists(struct backing_file, user_path) ||
	    !(BPF_CORE_READ(file, f_mode) & FMODE_BACKING))
		return 0;
	return BPF_CORE_READ((struct backing_file *)file, user_path.dentry);
}

SEC("lsm/file_mprotect")
int BPF_PROG(aegis_file_mprotect, struct vm_area_struct *vma, unsigned long reqprot,
	     unsigned long prot, int ret)
{
	struct file *file = BPF_CORE_READ(vma, vm_file);
	struct dentry *above;

	if (ret)
		return ret;
	ret = check_mapping(file, prot, AEGIS_HOOK_MPROTECT);
	if (ret || !(prot & PROT_EXEC) || !file)
		return ret;
	above = opened_above(file);
	return above ? check_dentry(above, OP(EXEC), 0, AEGIS_HOOK_MPROTECT) : 0;
}

/*
 * The verifier wants a context access at a constant offset; the compiler would
 * fold the two branches below into one access at a variable one.
 */
#define ARG(ctx, n)                                                                                \
	({                                                                                         \
		__u64 value_;                                                                      \
		asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(value_) : "r"(ctx), "i"(8 * (n)));    \
		value_;                                                                            \
	})

/*
 * Since 6.9 the hook's first argument is an idmap. It came with the series that
 * added the hook inode_post_setattr, so that one's presence tells (struct
 * mnt_idmap itself is older).
 */
SEC("lsm/inode_setattr")
int aegis_inode_setattr(unsigned long long *ctx)
{
	struct dentry *dentry;
	struct iattr *attr;
	int ret;

	if (bpf_core_field_exists(union security_list_options, inode_post_setattr)) {
		dentry = (void *)ARG(ctx, 1);
		attr = (void *)ARG(ctx, 2);
		ret = ARG(ctx, 3);
	} else {
		dentry = (void *)ARG(ctx, 0);
		attr = (void *)ARG(ctx, 1);
		ret = ARG(ctx, 2);
	}
	if (ret)
		return ret;
	return check_dentry(dentry, ops_of_setattr(BPF_CORE_READ(attr, ia_valid)), 0,
			    AEGIS_HOOK_SETATTR);
}

SEC("lsm/inode_unlink")
int BPF_PROG(aegis_inode_unlink, struct inode *dir, struct dentry *dentry, int ret)
{
	return ret ? ret : check_dentry(dentry, OP(MODIFY), 0, AEGIS_HOOK_UNLINK);
}

SEC("lsm/inode_rmdir")
int BPF_PROG(aegis_inode_rmdir, struct inode *dir, struct dentry *dentry, int ret)
{
	return ret ? ret : check_dentry(dentry, OP(MODIFY), 0, AEGIS_HOOK_UNLINK);
}

SEC("lsm/inode_rename")
int BPF_PROG(aegis_inode_rename, struct inode *old_dir, struct dentry *old_dentry,
	     struct inode *new_dir, struct dentry *new_dentry, int ret)
{
	int move = old_dir == new_dir ? AEGIS_LEAVES_NAME : AEGIS_LEAVES_DIR;

	if (ret)
		return ret;
	ret = check_dentry(old_dentry, OP(MODIFY), move, AEGIS_HOOK_RENAME);
	return ret ? ret : check_dentry(new_dentry, OP(MODIFY), 0, AEGIS_HOOK_RENAME);
}

SEC("lsm/inode_link")
int BPF_PROG(aegis_inode_link, struct dentry *old_dentry, struct inode *dir,
	     struct dentry *new_dentry, int ret)
{
	struct inode *old_dir = BPF_CORE_READ(old_dentry, d_parent, d_inode);
	int move = old_dir == dir ? AEGIS_LEAVES_NAME : AEGIS_LEAVES_DIR;

	if (ret)
		return ret;
	ret = check_dentry(old_dentry, OP(MODIFY), move, AEGIS_HOOK_LINK);
	return ret ? ret : check_dentry(new_dentry, OP(MODIFY), 0, AEGIS_HOOK_LINK);
}

SEC("lsm/inode_create")
int BPF_PROG(aegis_inode_create, struct inode *dir, struct dentry *dentry, int mode, int ret)
{
	return ret ? ret : check_dentry(dentry, OP(MODIFY), 0, AEGIS_HOOK_CREATE);
}

SEC("lsm/inode_mkdir")
int BPF_PROG(aegis_inode_mkdir, struct inode *dir, struct dentry *dentry, int mode, int ret)
{
	return ret ? ret : check_dentry(dentry, OP(MODIFY), 0, AEGIS_HOOK_CREATE);
}

SEC("lsm/inode_mknod")
int BPF_PROG(aegis_inode_mknod, struct inode *dir, struct dentry *dentry, int mode, int dev,
	     int ret)
{
	return ret ? ret : check_dentry(dentry, OP(MODIFY), 0, AEGIS_HOOK_CREATE);
}

SEC("lsm/inode_symlink")
int BPF_PROG(aegis_inode_symlink, struct inode *dir, struct dentry *dentry, const char *old_name,
	     int ret)
{
	return ret ? ret : check_dentry(dentry, OP(MODIFY), 0, AEGIS_HOOK_CREATE);
}

SEC("lsm/socket_connect")
int BPF_PROG(aegis_socket_connect, struct socket *sock, struct sockaddr *address, int addrlen,
	     int ret)
{
	return ret ? ret : check_net(sock, address, AEGIS_OP_EGRESS, AEGIS_HOOK_CONNECT);
}

SEC("lsm/socket_bind")
int BPF_PROG(aegis_socket_bind, struct socket *sock, struct sockaddr *address, int addrlen, int ret)
{
	return ret ? ret : check_net(sock, address, AEGIS_OP_BIND, AEGIS_HOOK_BIND);
}

/* Sends that name their peer: datagrams without connect, and TCP fast open. */
SEC("lsm/socket_sendmsg")
int BPF_PROG(aegis_socket_sendmsg, struct socket *sock, struct msghdr *msg, int size, int ret)
{
	void *name = msg->msg_name;
	struct sock *sk = sock->sk;
	struct sockaddr_any sa;
	__u16 protocol;

	if (ret)
		return ret;
	if (!name || !sk)
		return 0;
	/* A raw socket of protocol TCP does go where the name says. */
	protocol = sk->sk_protocol;
	if (protocol_of(protocol) == PROTO_TCP && sk->sk_type == SOCK_STREAM &&
	    !(msg->msg_flags & MSG_FASTOPEN))
		return 0;
	ret = check_net(sock, name, AEGIS_OP_EGRESS, AEGIS_HOOK_SENDMSG);
	if (ret || protocol != PROTO_SCTP)
		return ret;
	read_address(&sa, name);
	/* Read by the helper they are the numbers that a global function takes. */
	return check_control((__u64)BPF_CORE_READ(sock, sk), (__u64)BPF_CORE_READ(msg, msg_control),
			     msg->msg_controllen, sa.port);
}

/*
 * Addresses by socket option. The arguments are copied, so that they are the
 * plain numbers that a global function takes.
 */
SEC("lsm/sctp_bind_connect")
int aegis_sctp_bind_connect(unsigned long long *ctx)
{
	struct {
		__u64 sk, option, list, length;
	} given = {};
	int op, ret = ARG(ctx, 4);

	if (ret)
		return ret;
	bpf_probe_read_kernel(&given, sizeof(given), ctx);
	op = op_of_sctp(given.option);
	if (op < 0)
		return 0;
	return check_list(given.sk, given.list, given.length, op,
			  op == AEGIS_OP_BIND ? AEGIS_HOOK_BIND : AEGIS_HOOK_CONNECT);
}
