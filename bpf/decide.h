/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Decisions without side effects: no map, no helper, no kernel pointer. They are
 * tested as tables by tests/bpf/decide_test.bpf.c.
 */
#ifndef AEGIS_DECIDE_H
#define AEGIS_DECIDE_H

#define OP(name) (1U << AEGIS_OP_##name)

/* include/uapi/asm-generic/fcntl.h, include/linux/fs.h */
#define OPEN_TRUNC 01000
#define FMODE_READ 1
#define FMODE_WRITE 2
#define FMODE_EXEC 0x20
#define FMODE_BACKING (1 << 24 | 1 << 25) /* one of them: it moved */

/* include/linux/fs.h */
#define ATTR_MODE (1 << 0)
#define ATTR_UID (1 << 1)
#define ATTR_GID (1 << 2)
#define ATTR_SIZE (1 << 3)
#define ATTR_ATIME (1 << 4)
#define ATTR_MTIME (1 << 5)

#define SIGNAL_INT 2
#define SIGNAL_KILL 9
#define SIGNAL_TERM 15

struct circumstances {
	__u64 deadline;
	__u64 now;
	__u8 mode; /* the host's */
	__u8 enforce; /* the rule's */
	__u8 signal;
	__u8 cgroup_allowed;
	__u8 survival;
};

struct verdict {
	__u8 action;
	__u8 reason;
};

/* What an open asks for. Opening to run a program is no reading by the process. */
static __always_inline __u32 ops_of_open(__u32 flags, __u32 mode)
{
	__u32 ops = 0;

	if (flags & FMODE_EXEC)
		return OP(EXEC);
	if (mode & FMODE_READ)
		ops |= OP(READ);
	if ((mode & FMODE_WRITE) || (flags & OPEN_TRUNC))
		ops |= OP(WRITE);
	return ops;
}

static __always_inline __u32 ops_of_setattr(__u32 valid)
{
	__u32 ops = 0;

	if (valid & ATTR_SIZE)
		ops |= OP(WRITE);
	/* A truncation also sets times; that is the same act. */
	else if (valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_ATIME | ATTR_MTIME))
		ops |= OP(MODIFY);
	return ops;
}

static __always_inline __u8 action_of_signal(__u8 signal)
{
	if (signal == SIGNAL_TERM)
		return AEGIS_TERM;
	if (signal == SIGNAL_KILL)
		return AEGIS_KILL;
	if (signal == SIGNAL_INT)
		return AEGIS_INT;
	return AEGIS_BLOCK;
}

/* Getting back in is reading and running; whoever writes to sshd is not getting in by it. */
static __always_inline int spared(__u8 op)
{
	return op == AEGIS_OP_READ || op == AEGIS_OP_EXEC;
}

/* A rule matched: what happens? Who is exempt comes before what the rule wants. */
static __always_inline struct verdict decide(const struct circumstances *c)
{
	struct verdict v = { AEGIS_AUDIT, AEGIS_REASON_NONE };

	if (c->cgroup_allowed) {
		v.action = AEGIS_ALLOW;
		v.reason = AEGIS_REASON_CGROUP;
	} else if (c->survival) {
		v.reason = AEGIS_REASON_SURVIVAL;
	} else if (!c->enforce) {
		v.reason = AEGIS_REASON_RULE_AUDIT;
	} else if (c->mode != AEGIS_MODE_ENFORCE) {
		v.reason = AEGIS_REASON_MODE_AUDIT;
	} else if (c->deadline && c->now > c->deadline) {
		v.reason = AEGIS_REASON_DEADLINE;
	} else {
		v.action = action_of_signal(c->signal);
	}
	return v;
}

/* An address as rules know it, however the program wrote it. */
struct peer {
	__u8 family; /* 4, 6, or 0: not ours */
	__u8 protocol; /* 6, 17, or 0: neither */
	__u16 port;
	__u8 addr[16];
};

#define FAMILY_UNSPEC 0
#define FAMILY_INET 2
#define FAMILY_INET6 10
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_SCTP 132
#define PROTO_UDPLITE 136
#define FAMILY_SMC 43
#define PROTO_SMC 256
#define PROTO_MPTCP 262

/* include/uapi/linux/sctp.h */
#define SCTP_PRIMARY_ADDR 6
#define SCTP_SOCKOPT_BINDX_ADD 100
#define SCTP_SOCKOPT_CONNECTX 110
#define SCTP_DSTADDRV4 7
#define SCTP_DSTADDRV6 8

/* include/linux/socket.h; struct cmsghdr, uapi */
struct control_head {
	__u64 len; /* with this head */
	__s32 level;
	__s32 type;
};

struct sockaddr_any {
	__u16 family;
	__u16 port; /* network byte order */
	__u8 v4[4]; /* sockaddr_in; in sockaddr_in6 the flow label */
	__u8 v6[16];
};

/*
 * What the addresses of an SCTP option are for; -1: not asked here. Those of a
 * sendmsg() were named to it, and those in packets come while any process runs.
 */
static __always_inline int op_of_sctp(__u32 option)
{
	if (option == SCTP_SOCKOPT_BINDX_ADD)
		return AEGIS_OP_BIND;
	if (option == SCTP_SOCKOPT_CONNECTX || option == SCTP_PRIMARY_ADDR)
		return AEGIS_OP_EGRESS;
	return -1;
}

/* In a list of addresses: struct sockaddr_in or sockaddr_in6. */
static __always_inline __u32 size_of_address(__u16 family)
{
	return family == FAMILY_INET6 ? 28 : 16;
}

/* The family of the address that a control message names; 0: it names none. */
static __always_inline __u16 family_of_control(__s32 level, __s32 type)
{
	if (level != PROTO_SCTP)
		return 0;
	if (type == SCTP_DSTADDRV4)
		return FAMILY_INET;
	return type == SCTP_DSTADDRV6 ? FAMILY_INET6 : 0;
}

static __always_inline __u8 protocol_of(__u16 protocol)
{
	if (protocol == PROTO_TCP || protocol == PROTO_SMC || protocol == PROTO_MPTCP)
		return PROTO_TCP;
	if (protocol == PROTO_UDP || protocol == PROTO_UDPLITE)
		return PROTO_UDP;
	return 0;
}

static __always_inline int all_zero(const __u8 *bytes, int n)
{
	__u8 any = 0;

#pragma unroll
	for (int i = 0; i < n; i++)
		any |= bytes[i];
	return !any;
}

static __always_inline int is_mapped(const __u8 *v6)
{
	return all_zero(v6, 10) && v6[10] == 0xff && v6[11] == 0xff;
}

/*
 * Sent to "any", a bound socket reaches the IPv4 address it is bound to
 * (ip_route_output_key_hash_rcu()), and one bound to an IPv4 address as IPv6
 * writes it reaches 127.0.0.1 at "::" (tcp_v6_connect(), udpv6_sendmsg()).
 */
static __always_inline void any_is_own(struct sockaddr_any *sa, const __u8 *own_v4,
				       const __u8 *own_v6)
{
	if (sa->family != FAMILY_INET6) {
		if (all_zero(sa->v4, 4))
			__builtin_memcpy(sa->v4, own_v4, 4);
	} else if (is_mapped(sa->v6)) {
		if (all_zero(sa->v6 + 12, 4))
			__builtin_memcpy(sa->v6 + 12, own_v4, 4);
	} else if (all_zero(sa->v6, 16) && is_mapped(own_v6)) {
		sa->v6[10] = sa->v6[11] = 0xff;
	}
}

/*
 * - An IPv4 socket takes AF_UNSPEC for AF_INET in bind and in UDP sendmsg
 *   (net/ipv4/af_inet.c, udp.c), so it must not be a way around.
 * - ::ffff:a.b.c.d is IPv4.
 * - Connecting to "any" reaches this host's loopback.
 * - SMC is TCP with a handshake of its own, and is plain TCP where the peer has
 *   none; its socket's protocol says which IP (net/smc/af_smc.c).
 */
static __always_inline void peer_of(struct peer *p, const struct sockaddr_any *sa,
				    __u16 sock_family, __u16 protocol, int egress)
{
	__u16 family = sa->family;
	int mapped;

	__builtin_memset(p, 0, sizeof(*p));
	if (sock_family == FAMILY_SMC) {
		sock_family = FAMILY_INET;
		protocol = PROTO_TCP;
	}
	if (family == FAMILY_UNSPEC && sock_family == FAMILY_INET)
		family = FAMILY_INET;
	if (family != FAMILY_INET && family != FAMILY_INET6)
		return;
	p->protocol = protocol_of(protocol);
	p->port = __builtin_bswap16(sa->port);
	if (family == FAMILY_INET) {
		p->family = 4;
		__builtin_memcpy(p->addr, sa->v4, 4);
	} else {
		mapped = is_mapped(sa->v6);
		p->family = mapped ? 4 : 6;
		if (mapped)
			__builtin_memcpy(p->addr, sa->v6 + 12, 4);
		else
			__builtin_memcpy(p->addr, sa->v6, 16);
	}
	if (egress && all_zero(p->addr, 16)) {
		if (p->family == 4)
			p->addr[0] = 127;
		p->addr[p->family == 4 ? 3 : 15] = 1;
	}
}

#endif
