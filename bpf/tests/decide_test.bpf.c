/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The decisions of decide.h as programs that BPF_PROG_TEST_RUN can run on tables. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "aegis.h"
#include "decide.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct decide_case {
	__u64 deadline;
	__u64 now;
	__u8 mode;
	__u8 enforce;
	__u8 signal;
	__u8 cgroup_allowed;
	__u8 survival;
	__u8 action; /* out */
	__u8 reason; /* out */
	__u8 pad;
};

SEC("syscall")
int test_decide(struct decide_case *t)
{
	struct circumstances c = {
		.deadline = t->deadline,
		.now = t->now,
		.mode = t->mode,
		.enforce = t->enforce,
		.signal = t->signal,
		.cgroup_allowed = t->cgroup_allowed,
		.survival = t->survival,
	};
	struct verdict v = decide(&c);

	t->action = v.action;
	t->reason = v.reason;
	return 0;
}

struct ops_case {
	__u32 flags;
	__u32 mode;
};

SEC("syscall")
int test_ops_of_open(struct ops_case *t)
{
	return ops_of_open(t->flags, t->mode);
}

SEC("syscall")
int test_ops_of_setattr(struct ops_case *t)
{
	return ops_of_setattr(t->flags);
}

SEC("syscall")
int test_op_of_sctp(struct ops_case *t)
{
	return op_of_sctp(t->flags);
}

struct peer_case {
	__u16 family;
	__u16 port; /* network byte order */
	__u8 v4[4];
	__u8 v6[16];
	__u16 sock_family;
	__u16 protocol;
	__u32 egress;
	struct peer out;
	__u32 pad;
};

/* The verifier wants the context at constant offsets; as a copy it is plain memory. */
static __always_inline void copy(volatile __u64 *to, const volatile __u64 *from)
{
#pragma unroll
	for (int i = 0; i < sizeof(struct peer_case) / 8; i++)
		to[i] = from[i];
}

SEC("syscall")
int test_peer_of(struct peer_case *ctx)
{
	struct sockaddr_any sa;
	struct peer_case t;

	copy((void *)&t, (void *)ctx);
	sa.family = t.family;
	sa.port = t.port;
	__builtin_memcpy(sa.v4, t.v4, sizeof(sa.v4));
	__builtin_memcpy(sa.v6, t.v6, sizeof(sa.v6));
	peer_of(&t.out, &sa, t.sock_family, t.protocol, t.egress);
	copy((void *)ctx, (void *)&t);
	return 0;
}
