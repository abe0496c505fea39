/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * How much the cgroups of a profile receive and send, and no more than they may: a token bucket a
 * direction. Nothing is queued here: what is too much is dropped, and TCP slows down.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "monitors/bandwidth.h"

volatile const char bpf_metadata_monitor[] SEC(".rodata") = "bandwidth";
char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SECOND 1000000000ULL
#define LOOPBACK 1 /* its index in every network namespace */
/* Acknowledgements and the like: without them the other direction would suffer. */
#define SMALL 128

enum verdict {
	DROP,
	PASS,
	DROP_AND_SLOW_DOWN
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bandwidth_limit);
} LIMIT SEC(".maps");

struct bucket {
	struct bpf_spin_lock lock;
	__u32 pad;
	struct bandwidth_count count;
	__s64 tokens; /* bytes; below 0 after a packet that was larger than what was left */
	__u64 last_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BANDWIDTH_DIRECTIONS);
	__type(key, __u32);
	__type(value, struct bucket);
} BUCKETS SEC(".maps");

/* The caller holds the lock. What is not earned to the byte stays in last_ns. */
static __always_inline void refill(struct bucket *b, const struct bandwidth_limit *l, __u64 now)
{
	__u64 elapsed = now > b->last_ns ? now - b->last_ns : 0;
	__u64 earned;

	if (elapsed >= SECOND) {
		/* Idle: what is owed is earned, but hardly more is saved than is good for a start. */
		b->tokens += elapsed / SECOND * l->rate;
		b->last_ns += elapsed / SECOND * SECOND;
		if (b->tokens > (__s64)l->idle_burst) {
			b->tokens = l->idle_burst;
			b->last_ns = now;
		}
		return;
	}
	earned = elapsed * l->rate / SECOND;
	b->tokens += earned;
	if (b->tokens >= (__s64)l->burst) {
		b->tokens = l->burst;
		b->last_ns = now;
	} else {
		b->last_ns += earned * SECOND / l->rate;
	}
}

static __always_inline int decide(struct __sk_buff *skb, __u32 direction)
{
	__u32 zero = 0;
	struct bandwidth_limit *limit = bpf_map_lookup_elem(&LIMIT, &zero);
	struct bucket *b = bpf_map_lookup_elem(&BUCKETS, &direction);
	struct bandwidth_limit l;
	__u64 now = bpf_ktime_get_ns();
	__s64 floor;
	int pass;

	if (!limit || !b || skb->ifindex == LOOPBACK)
		return 1;
	l = *limit;
	floor = skb->len <= SMALL ? -(__s64)l.burst : 0;
	bpf_spin_lock(&b->lock);
	if (l.rate)
		refill(b, &l, now);
	pass = !l.rate || b->tokens > floor;
	if (pass) {
		b->count.passed_bytes += skb->len;
		b->count.passed_packets++;
		if (l.rate)
			b->tokens -= skb->len;
	} else {
		b->count.dropped_bytes += skb->len;
		b->count.dropped_packets++;
	}
	bpf_spin_unlock(&b->lock);
	return pass;
}

SEC("cgroup_skb/ingress")
int bandwidth_in(struct __sk_buff *skb)
{
	return decide(skb, BANDWIDTH_IN) ? PASS : DROP;
}

SEC("cgroup_skb/egress")
int bandwidth_out(struct __sk_buff *skb)
{
	return decide(skb, BANDWIDTH_OUT) ? PASS : DROP_AND_SLOW_DOWN;
}
