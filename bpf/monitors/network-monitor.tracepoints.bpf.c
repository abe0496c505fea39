/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The network monitor where the kernel's functions cannot be watched: by tracepoints (Linux 6.3).
 * It does not see connect(2) of UDP, splice(2) out of a socket, and the peer of a datagram where
 * the socket has none.
 */
#include "monitors/network.h"

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define ECONNABORTED 103

/* Connections on their way, and who asked for them: the local port is given after the first state. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct monitor_head);
} CONNECTING SEC(".maps");

static __always_inline void begin(__u64 sk)
{
	struct monitor_head head;

	if (!wanted(NO_SIZE))
		return;
	fill_head(&head, NETWORK_CONNECT);
	if (bpf_map_update_elem(&CONNECTING, &sk, &head, BPF_ANY)) {
		count(MONITOR_UNTRACKED);
		count(MONITOR_DROPPED);
	}
}

/* An error that is not there yet: this side gave up. */
static __always_inline __s32 outcome(struct sock *sk, int state)
{
	int error = sk->sk_err;

	if (state == TCP_ESTABLISHED)
		return 0;
	return error ? -error : -ECONNABORTED;
}

/* Whatever task this comes by in: a packet decides it. */
static __always_inline void end(struct sock *sk, int state)
{
	__u64 key = (__u64)sk;
	struct monitor_head *head = bpf_map_lookup_elem(&CONNECTING, &key);
	struct network_event *e;

	if (!head)
		return;
	e = reserve();
	if (e) {
		e->head = *head;
		e->family = sk->__sk_common.skc_family;
		e->protocol = IPPROTO_TCP;
		e->result = outcome(sk, state);
		add_addresses(e, sk);
		/* skc_num is given back before this where the connection failed. */
		e->local_port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
		bpf_ringbuf_submit(e, 0);
		count(MONITOR_SENT);
	}
	bpf_map_delete_elem(&CONNECTING, &key);
}

SEC("tp_btf/inet_sock_set_state")
int tcp_connect(__u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	int before = ctx[1], state = ctx[2];
	__u16 family = sk->__sk_common.skc_family;

	if (sk->sk_protocol != IPPROTO_TCP || !is_told(sk, family, IPPROTO_TCP))
		return 0;
	if (state == TCP_SYN_SENT)
		begin((__u64)sk);
	else if (before == TCP_SYN_SENT)
		end(sk, state);
	return 0;
}

static __always_inline int moved(__u64 *ctx, __u16 type)
{
	struct moved m = { .type = type, .result = (__s32)ctx[1] };

	/* Of a receive the last argument is the flags, of a send 0. */
	if (ctx[2] & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	m.bytes = m.result > 0 ? m.result : 0;
	tell((void *)ctx[0], m, 0);
	return 0;
}

SEC("tp_btf/sock_send_length")
int tcp_sendmsg(__u64 *ctx)
{
	return moved(ctx, NETWORK_SEND);
}

SEC("tp_btf/sock_recv_length")
int tcp_recvmsg(__u64 *ctx)
{
	return moved(ctx, NETWORK_RECEIVE);
}
