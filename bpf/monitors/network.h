/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the variants of the network monitor have in common: sockets, and the record. */
#ifndef AEGIS_MONITORS_NETWORK_H
#define AEGIS_MONITORS_NETWORK_H

#include <bpf/bpf_endian.h>

#include "monitors/common.h"

MONITOR_NAME("network-monitor");
EVENTS(NETWORK_EVENTS, 1 << 19);

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000
#define EINTR 4
#define ERESTARTSYS 512

/* sockaddr_in and sockaddr_in6, of which the first has no more than v4. */
struct name {
	__u16 family;
	__be16 port;
	__u32 v4;
	struct in6_addr v6;
};

/* What moved: the result of the call, and the bytes of it that count. */
struct moved {
	__u16 type;
	__s32 result;
	__u64 bytes;
};

static __always_inline int is_mapped(const struct in6_addr *v6)
{
	const __u32 *words = (const void *)v6;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

static __always_inline int is_told(struct sock *sk, __u16 family, __u16 protocol)
{
	return sk && (family == AF_INET || family == AF_INET6) &&
	       (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP);
}

/* The numbers that only the kernel knows: a program is told EINTR, or the call is made anew. */
static __always_inline __s32 told_result(__s32 result)
{
	return result <= -ERESTARTSYS ? -EINTR : result;
}

static __always_inline void put_v4(__u8 *to, __u32 family, __u32 v4)
{
	__u32 *words = (void *)to;

	if (family == AF_INET) {
		words[0] = v4;
		return;
	}
	words[0] = words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = v4;
}

static __always_inline void add_addresses(struct network_event *e, struct sock *sk)
{
	e->local_port = sk->__sk_common.skc_num;
	e->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	if (e->family == AF_INET) {
		put_v4(e->local, AF_INET, sk->__sk_common.skc_rcv_saddr);
		put_v4(e->remote, AF_INET, sk->__sk_common.skc_daddr);
		return;
	}
	bpf_core_read(e->local, sizeof(e->local), &sk->__sk_common.skc_v6_rcv_saddr);
	bpf_core_read(e->remote, sizeof(e->remote), &sk->__sk_common.skc_v6_daddr);
}

/* The peer of this one datagram, where the call names it. */
static __always_inline void add_name(struct network_event *e, struct msghdr *msg)
{
	void *at = msg ? msg->msg_name : 0;
	struct name name;

	if (!at || bpf_probe_read_kernel(&name, sizeof(name), at))
		return;
	e->remote_port = bpf_ntohs(name.port);
	if (name.family == AF_INET6)
		__builtin_memcpy(e->remote, &name.v6, sizeof(e->remote));
	else
		put_v4(e->remote, e->family, name.v4);
}

static __always_inline struct network_event *reserve(void)
{
	struct network_event *e = bpf_ringbuf_reserve(&NETWORK_EVENTS, sizeof(*e), 0);

	if (e)
		__builtin_memset(e, 0, sizeof(*e));
	else
		count(MONITOR_DROPPED);
	return e;
}

/* A stream that gave or took nothing has not moved; an empty datagram has. */
static __always_inline void tell(struct sock *sk, struct moved m, struct msghdr *msg)
{
	__u16 family = sk->__sk_common.skc_family;
	__u16 protocol = sk->sk_protocol;
	struct network_event *e;

	if (!is_told(sk, family, protocol))
		return;
	if (protocol == IPPROTO_TCP && m.type != NETWORK_CONNECT && !m.result)
		return;
	if (!wanted(m.type == NETWORK_CONNECT ? NO_SIZE : m.bytes))
		return;
	e = reserve();
	if (!e)
		return;
	fill_head(&e->head, m.type);
	e->bytes = m.bytes;
	e->result = told_result(m.result);
	e->family = family;
	e->protocol = protocol;
	add_addresses(e, sk);
	add_name(e, msg);
	bpf_ringbuf_submit(e, 0);
	count(MONITOR_SENT);
}

#endif
