/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Enforcement: the LSM hooks. Each asks for a match and lets finish_*() answer. */
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

#define EPERM 1
#define PROT_EXEC 4
#define SOCK_STREAM 1
#define SOCK_RAW 3
#define MSG_FASTOPEN 0x20000000
#define LISTED_MAX 32

static __noinline int finish_file(struct slot *s, struct match *m, struct dentry *dentry,
				  struct inode *inode, __u8 hook)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct verdict v;

	if (!s || !m)
		return 0;
	v = judge(s, m, spared(m->op) && survives(inode), now);
	if (account(m, &v, hook, now))
		send_file_event(s->index, m, &v, hook, now, dentry, inode);
	return v.action >= AEGIS_BLOCK ? -EPERM : 0;
}

static __noinline int finish_net(struct slot *s, struct match *m, struct peer *p, __u8 hook)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct verdict v;

	if (!s || !m || !p)
		return 0;
	v = judge(s, m, 0, now);
	if (account(m, &v, hook, now))
		send_net_event(s->index, m, &v, hook, now, p);
	return v.action >= AEGIS_BLOCK ? -EPERM : 0;
}

/* The whole of a file hook but its arguments; move: see match_file(). */
static __noinline int check_file(struct dentry *dentry, struct inode *inode, __u32 ops, int move,
				 __u8 hook)
{
	struct match m = {};
	struct slot s = {};

	if (!slot_of(&s, AEGIS_KINDS_FILE))
		return 0;
	match_file(&m, &s, dentry, inode, ops, move);
	return m.uid ? finish_file(&s, &m, dentry, inode, hook) : 0;
}

static __always_inline int check_dentry(struct dentry *dentry, __u32 ops, int move, __u8 hook)
{
	return check_file(dentry, BPF_CORE_READ(dentry, d_inode), ops, move, hook);
}

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
	if (!(prot & PROT_EXEC) || !file || (BPF_CORE_READ(file, f_flags) & FMODE_EXEC))
		return 0;
	return check_file(BPF_CORE_READ(file, f_path.dentry), BPF_CORE_READ(file, f_inode),
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

/* address is in kernel memory, in a buffer that holds any sockaddr. */
static __always_inline void read_address(struct sockaddr_any *sa, const void *address)
{
	bpf_probe_read_kernel(&sa->family, 8, address); /* family, port, sin_addr */
	bpf_probe_read_kernel(sa->v6, 16, address + 8); /* sin6_addr */
}

static __always_inline void read_own(struct sockaddr_any *sa, struct sock *sk)
{
	__u8 own_v4[4] = {}, own_v6[16] = {};

	BPF_CORE_READ_INTO(&own_v4, sk, __sk_common.skc_rcv_saddr);
	if (bpf_core_field_exists(struct sock_common, skc_v6_rcv_saddr) &&
	    BPF_CORE_READ(sk, __sk_common.skc_family) == FAMILY_INET6)
		BPF_CORE_READ_INTO(&own_v6, sk, __sk_common.skc_v6_rcv_saddr);
	any_is_own(sa, own_v4, own_v6);
}

static __always_inline int check_address(struct slot *s, struct sock *sk, struct sockaddr_any *sa,
					 __u8 op, __u8 hook)
{
	struct match m = {};
	struct peer p;

	/* Such a socket takes it for AF_INET6 (rawv6_sendmsg()). */
	if (sa->family == FAMILY_UNSPEC && BPF_CORE_READ(sk, sk_type) == SOCK_RAW &&
	    BPF_CORE_READ(sk, __sk_common.skc_family) == FAMILY_INET6)
		sa->family = FAMILY_INET6;
	if (op == AEGIS_OP_EGRESS)
		read_own(sa, sk);
	peer_of(&p, sa, BPF_CORE_READ(sk, __sk_common.skc_family), BPF_CORE_READ(sk, sk_protocol),
		op == AEGIS_OP_EGRESS);
	if (!p.family)
		return 0;
	match_net(&m, s, &p, op);
	return m.uid ? finish_net(s, &m, &p, hook) : 0;
}

static __always_inline int check_net(struct socket *sock, const void *address, __u8 op, __u8 hook)
{
	struct sock *sk = BPF_CORE_READ(sock, sk);
	struct sockaddr_any sa = {};
	struct slot s = {};

	if (!slot_of(&s, AEGIS_KINDS_NET) || !address || !sk)
		return 0;
	read_address(&sa, address);
	if (hook == AEGIS_HOOK_CONNECT && sa.family == FAMILY_UNSPEC)
		return 0; /* ends a connection */
	return check_address(&s, sk, &sa, op, hook);
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

/*
 * One of several addresses: a sockaddr, or where bare is not 0 an address alone,
 * of the family in its lower and the port in its upper half. A global function of
 * numbers: the verifier goes through it once and not at every turn of a loop.
 */
__noinline int check_listed(__u64 sk, __u64 address, __u32 bare, __u32 op, __u32 hook)
{
	const void *at = (const void *)address;
	struct sockaddr_any sa = {};
	struct slot s = {};

	if (!slot_of(&s, AEGIS_KINDS_NET))
		return 0;
	if (!bare) {
		read_address(&sa, at);
	} else {
		sa.family = bare;
		sa.port = bare >> 16;
		if (sa.family == FAMILY_INET)
			bpf_probe_read_kernel(sa.v4, 4, at);
		else
			bpf_probe_read_kernel(sa.v6, 16, at);
	}
	return check_address(&s, (struct sock *)sk, &sa, op, hook);
}

/* What is too long to be looked through is no way around; nobody is that multihomed. */
static __noinline int too_many(void)
{
	struct match any = { .enforce = AEGIS_MODE_ENFORCE };
	struct slot s = {};

	if (!slot_of(&s, AEGIS_KINDS_NET))
		return 0;
	return judge(&s, &any, 0, bpf_ktime_get_boot_ns()).action >= AEGIS_BLOCK ? -EPERM : 0;
}

/* The further addresses that one sendmsg() opens an association with (sctp_sendv()). */
static __always_inline int check_control(struct sock *sk, struct msghdr *msg, const void *name)
{
	__u64 at = (__u64)BPF_CORE_READ(msg, msg_control);
	__u64 end = at + BPF_CORE_READ(msg, msg_controllen);
	struct control_head head = {};
	struct sockaddr_any sa;
	__u16 family;

	if (!at)
		return 0;
	read_address(&sa, name);
	for (int i = 0; i < LISTED_MAX; i++) {
		if (at + sizeof(head) > end)
			return 0;
		bpf_probe_read_kernel(&head, sizeof(head), (void *)at);
		if (head.len < sizeof(head))
			return 0;
		family = family_of_control(head.level, head.type);
		if (family &&
		    check_listed((__u64)sk, at + sizeof(head), (__u32)sa.port << 16 | family,
				 AEGIS_OP_EGRESS, AEGIS_HOOK_SENDMSG))
			return -EPERM;
		at += (head.len + 7) & ~7ULL;
	}
	return at + sizeof(head) > end ? 0 : too_many();
}

/* Sends that name their peer: datagrams without connect, and TCP fast open. */
SEC("lsm/socket_sendmsg")
int BPF_PROG(aegis_socket_sendmsg, struct socket *sock, struct msghdr *msg, int size, int ret)
{
	void *name = BPF_CORE_READ(msg, msg_name);
	__u16 protocol;

	if (ret)
		return ret;
	if (!name)
		return 0;
	/* A raw socket of protocol TCP does go where the name says. */
	protocol = BPF_CORE_READ(sock, sk, sk_protocol);
	if (protocol_of(protocol) == PROTO_TCP && BPF_CORE_READ(sock, sk, sk_type) == SOCK_STREAM &&
	    !(BPF_CORE_READ(msg, msg_flags) & MSG_FASTOPEN))
		return 0;
	ret = check_net(sock, name, AEGIS_OP_EGRESS, AEGIS_HOOK_SENDMSG);
	if (ret || protocol != PROTO_SCTP)
		return ret;
	return check_control(BPF_CORE_READ(sock, sk), msg, name);
}

/*
 * Addresses by socket option: sctp_bindx(), sctp_connectx(). The arguments are
 * copied, so that they are the plain numbers that a global function takes.
 */
SEC("lsm/sctp_bind_connect")
int aegis_sctp_bind_connect(unsigned long long *ctx)
{
	struct {
		__u64 sk, option, list, length;
	} given = {};
	__u64 at, end;
	__u16 family = 0;
	int op, ret = ARG(ctx, 4);

	if (ret)
		return ret;
	bpf_probe_read_kernel(&given, sizeof(given), ctx);
	op = op_of_sctp(given.option);
	if (op < 0)
		return 0;
	at = given.list;
	end = at + (__u32)given.length;
	for (int i = 0; i < LISTED_MAX; i++) {
		if (at + sizeof(family) > end)
			return 0;
		bpf_probe_read_kernel(&family, sizeof(family), (void *)at);
		if (check_listed(given.sk, at, 0, op,
				 op == AEGIS_OP_BIND ? AEGIS_HOOK_BIND : AEGIS_HOOK_CONNECT))
			return -EPERM;
		at += size_of_address(family);
	}
	return at < end ? too_many() : 0;
}
