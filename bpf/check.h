/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Match, then finish: all of a hook but its arguments. No LSM in it, so that
 * tests run it on this machine's own files and sockets (bpf/tests/check_test.bpf.c).
 */
#ifndef AEGIS_CHECK_H
#define AEGIS_CHECK_H

/* Whether the verifier knows the types of a hook's pointers: see LOAD. */
#ifndef TYPED
#define TYPED(hook) 0
#endif

#define EPERM 1
#define SOCK_RAW 3
#define LISTED_MAX 32 /* addresses of one list, control messages of one send */

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
	struct slot s = { .typed = TYPED(hook) };

	if (!slot_of(&s, AEGIS_KINDS_FILE))
		return 0;
	match_file(&m, &s, dentry, inode, ops, move);
	return m.uid ? finish_file(&s, &m, dentry, inode, hook) : 0;
}

static __always_inline int check_dentry(struct dentry *dentry, __u32 ops, int move, __u8 hook)
{
	return check_file(dentry, LOAD(TYPED(hook), dentry, d_inode), ops, move, hook);
}

/* address is in kernel memory, in a buffer that holds any sockaddr. */
static __always_inline void read_address(struct sockaddr_any *sa, const void *address)
{
	bpf_probe_read_kernel(&sa->family, 8, address); /* family, port, sin_addr */
	bpf_probe_read_kernel(sa->v6, 16, address + 8); /* sin6_addr */
}

static __always_inline void read_own(struct sockaddr_any *sa, struct sock *sk, __u64 typed)
{
	__u32 own_v4 = LOAD(typed, sk, __sk_common.skc_rcv_saddr);
	__u8 own_v6[16] = {};

	if (bpf_core_field_exists(struct sock_common, skc_v6_rcv_saddr) &&
	    LOAD(typed, sk, __sk_common.skc_family) == FAMILY_INET6)
		BPF_CORE_READ_INTO(&own_v6, sk, __sk_common.skc_v6_rcv_saddr);
	any_is_own(sa, (const __u8 *)&own_v4, own_v6);
}

static __always_inline int check_address(struct slot *s, struct sock *sk, struct sockaddr_any *sa,
					 __u8 op, __u8 hook)
{
	struct match m = {};
	struct peer p;

	/* Such a socket takes it for AF_INET6 (rawv6_sendmsg()). */
	if (sa->family == FAMILY_UNSPEC && LOAD(s->typed, sk, sk_type) == SOCK_RAW &&
	    LOAD(s->typed, sk, __sk_common.skc_family) == FAMILY_INET6)
		sa->family = FAMILY_INET6;
	if (op == AEGIS_OP_EGRESS)
		read_own(sa, sk, s->typed);
	peer_of(&p, sa, LOAD(s->typed, sk, __sk_common.skc_family), LOAD(s->typed, sk, sk_protocol),
		op == AEGIS_OP_EGRESS);
	if (!p.family)
		return 0;
	match_net(&m, s, &p, op);
	return m.uid ? finish_net(s, &m, &p, hook) : 0;
}

static __always_inline int check_net(struct socket *sock, const void *address, __u8 op, __u8 hook)
{
	struct slot s = { .typed = TYPED(hook) };
	struct sock *sk = LOAD(s.typed, sock, sk);
	struct sockaddr_any sa = {};

	if (!slot_of(&s, AEGIS_KINDS_NET) || !address || !sk)
		return 0;
	read_address(&sa, address);
	if (hook == AEGIS_HOOK_CONNECT && sa.family == FAMILY_UNSPEC)
		return 0; /* ends a connection */
	return check_address(&s, sk, &sa, op, hook);
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

/*
 * What is too long to be looked through is no way around; nobody is that
 * multihomed. It is told of without a rule, and with no address.
 */
static __noinline int too_many(__u32 op, __u32 hook)
{
	struct match any = { .op = op, .enforce = AEGIS_MODE_ENFORCE };
	struct peer none = { .family = 4 };
	struct slot s = {};

	return slot_of(&s, AEGIS_KINDS_NET) ? finish_net(&s, &any, &none, hook) : 0;
}

/* The addresses of sctp_bindx() and sctp_connectx(), one behind the other. */
static __always_inline int check_list(__u64 sk, __u64 at, __u32 length, __u32 op, __u32 hook)
{
	__u64 end = at + length;
	__u16 family = 0;

	for (int i = 0; i < LISTED_MAX; i++) {
		if (at + sizeof(family) > end)
			return 0;
		bpf_probe_read_kernel(&family, sizeof(family), (void *)at);
		if (check_listed(sk, at, 0, op, hook))
			return -EPERM;
		at += size_of_address(family);
	}
	return at < end ? too_many(op, hook) : 0;
}

/*
 * The further addresses in the control messages of a sendmsg() that opens an
 * association (sctp_sendv()). Their port is the one of the first.
 */
static __always_inline int check_control(__u64 sk, __u64 at, __u64 length, __u16 port)
{
	struct control_head head = {};
	__u64 end = at + length;
	__u32 family;

	for (int i = 0; i < LISTED_MAX; i++) {
		if (at + sizeof(head) > end)
			return 0;
		bpf_probe_read_kernel(&head, sizeof(head), (void *)at);
		if (head.len < sizeof(head))
			return 0;
		family = family_of_control(head.level, head.type);
		if (family && check_listed(sk, at + sizeof(head), (__u32)port << 16 | family,
					   AEGIS_OP_EGRESS, AEGIS_HOOK_SENDMSG))
			return -EPERM;
		at += (head.len + 7) & ~7ULL;
	}
	return at + sizeof(head) > end ? 0 : too_many(AEGIS_OP_EGRESS, AEGIS_HOOK_SENDMSG);
}

#endif
