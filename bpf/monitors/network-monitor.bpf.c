/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Connections, and what TCP and UDP really moved: seen as the kernel's functions return, in the
 * process that called them. What goes by others is not seen: TLS in the kernel, MPTCP, raw sockets.
 */
#include "monitors/network.h"

/* RFC 2133's sockaddr_in6, the shortest that is taken. */
#define SHORTEST_IN6 24

/* Linux 5.17 says what a function returned, and with how many arguments it was called. */
static __always_inline int kernel_says(void)
{
	return bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_func_ret);
}

static __always_inline __s32 said_result(__u64 *ctx)
{
	__u64 value = 0;

	bpf_get_func_ret(ctx, &value);
	return value;
}

/* Before, it follows the arguments; of which receiving functions lost one in 5.19, one by 7.2. */
#define RESULT(ctx, arguments) (kernel_says() ? said_result(ctx) : (__s32)ARGUMENT(ctx, arguments))

/* (sk, msg, len, [nonblock,] flags, …) */
static __always_inline __u32 flags_of(__u64 *ctx)
{
	__u64 value = 0;

	if (!kernel_says())
		return ARGUMENT(ctx, 4);
	bpf_get_func_arg(ctx, bpf_get_func_arg_cnt(ctx) > 5 ? 4 : 3, &value);
	return value;
}

static __always_inline int connected(struct sock *sk, __s32 result)
{
	struct moved m = { .type = NETWORK_CONNECT, .result = result };

	tell(sk, m, 0);
	return 0;
}

static __always_inline int sent(struct sock *sk, struct msghdr *msg, __s32 result)
{
	struct moved m = { .type = NETWORK_SEND, .result = result };

	m.bytes = result > 0 ? result : 0;
	tell(sk, m, msg);
	return 0;
}

/* What is only looked at stays where it is; an error that is fetched was never sent. */
static __always_inline int received(__u64 *ctx, int datagram)
{
	struct moved m = { .type = NETWORK_RECEIVE, .result = RESULT(ctx, 6) };
	__u64 room = ctx[2];

	if (flags_of(ctx) & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	m.bytes = m.result > 0 ? m.result : 0;
	/* MSG_TRUNC: the result is the datagram's size, whatever there was room for. */
	if (m.bytes > room)
		m.bytes = room;
	tell((void *)ctx[0], m, datagram && m.result >= 0 ? (void *)ctx[1] : 0);
	return 0;
}

SEC("fexit/tcp_connect")
int tcp_connect(__u64 *ctx)
{
	return connected((void *)ctx[0], RESULT(ctx, 1));
}

/* An IPv6 socket that is given an IPv4 address comes by here as well: it is told below. */
SEC("fexit/__ip4_datagram_connect")
int ip4_datagram_connect(__u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];

	if (sk->__sk_common.skc_family != AF_INET)
		return 0;
	return connected(sk, RESULT(ctx, 3));
}

SEC("fexit/__ip6_datagram_connect")
int ip6_datagram_connect(__u64 *ctx)
{
	return connected((void *)ctx[0], RESULT(ctx, 3));
}

SEC("fexit/tcp_sendmsg")
int tcp_sendmsg(__u64 *ctx)
{
	return sent((void *)ctx[0], 0, RESULT(ctx, 3));
}

SEC("fexit/tcp_recvmsg")
int tcp_recvmsg(__u64 *ctx)
{
	return received(ctx, 0);
}

/* splice(2) and sendfile(2) out of a socket. */
SEC("fexit/tcp_splice_read")
int tcp_splice_read(__u64 *ctx)
{
	struct socket *socket = (void *)ctx[0];
	struct moved m = { .type = NETWORK_RECEIVE, .result = RESULT(ctx, 5) };

	m.bytes = m.result > 0 ? m.result : 0;
	tell(socket->sk, m, 0);
	return 0;
}

/* Datagrams over IPv4, of IPv6 sockets too. */
SEC("fexit/udp_sendmsg")
int udp_sendmsg(__u64 *ctx)
{
	return sent((void *)ctx[0], (void *)ctx[1], RESULT(ctx, 3));
}

/*
 * True where udpv6_sendmsg left it to udp_sendmsg, which was told of. Linux 5.10 leaves msg_name
 * pointing at an address that is gone, known by its length.
 */
static __always_inline int went_over_ipv4(struct sock *sk, struct msghdr *msg)
{
	void *at = msg->msg_name;
	struct name name = {};

	if (!at) {
		bpf_core_read(&name.v6, sizeof(name.v6), &sk->__sk_common.skc_v6_daddr);
		return is_mapped(&name.v6);
	}
	if (msg->msg_namelen < SHORTEST_IN6)
		return 1;
	bpf_probe_read_kernel(&name, sizeof(name), at);
	return name.family == AF_INET || is_mapped(&name.v6);
}

SEC("fexit/udpv6_sendmsg")
int udpv6_sendmsg(__u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	struct msghdr *msg = (void *)ctx[1];

	if (went_over_ipv4(sk, msg))
		return 0;
	return sent(sk, msg, RESULT(ctx, 3));
}

SEC("fexit/udp_recvmsg")
int udp_recvmsg(__u64 *ctx)
{
	return received(ctx, 1);
}

SEC("fexit/udpv6_recvmsg")
int udpv6_recvmsg(__u64 *ctx)
{
	return received(ctx, 1);
}

#ifdef WITH_SENDPAGE
/* sendfile(2) and splice(2) into a socket, before 6.5 made them messages. */
SEC("fexit/tcp_sendpage")
int tcp_sendpage(__u64 *ctx)
{
	return sent((void *)ctx[0], 0, RESULT(ctx, 5));
}
#endif
