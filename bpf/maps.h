/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The maps. A policy lives in a slot: one inner map of each policy map. User
 * space fills the slot that is not active and then writes one config element.
 *
 * Inner maps are made by user space at the size the host was configured for;
 * the sizes here only type the outer map. key_size and value_size instead of
 * key and value types: clang 14 keeps no more than a forward declaration of a
 * type named only in an inner map.
 */
#ifndef AEGIS_MAPS_H
#define AEGIS_MAPS_H

#define POLICY_MAP(map, kind, ksize, vsize)                                                        \
	struct map##_inner {                                                                       \
		__uint(type, kind);                                                                \
		__uint(max_entries, 1);                                                            \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__uint(key_size, ksize);                                                           \
		__uint(value_size, vsize);                                                         \
	};                                                                                         \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                                          \
		__uint(max_entries, AEGIS_SLOTS);                                                  \
		__uint(key_size, sizeof(__u32));                                                   \
		__array(values, struct map##_inner);                                               \
	} map SEC(".maps")

#define HASH_POLICY_MAP(map, key, value)                                                           \
	POLICY_MAP(map, BPF_MAP_TYPE_HASH, sizeof(key), sizeof(value))
#define LPM_POLICY_MAP(map, key, value)                                                            \
	POLICY_MAP(map, BPF_MAP_TYPE_LPM_TRIE, sizeof(key), sizeof(value))

HASH_POLICY_MAP(rules, __u64, struct rule_attr);
HASH_POLICY_MAP(manual_rules, __u64, struct manual_rule);
HASH_POLICY_MAP(allow_cgroup_map, __u64, __u64);
HASH_POLICY_MAP(deny_inode_map, struct inode_key, struct file_entry);
HASH_POLICY_MAP(deny_path_map, struct name_key, struct file_entry);
HASH_POLICY_MAP(deny_dir_map, struct inode_key, struct file_entry);
HASH_POLICY_MAP(audit_path_map, struct path_key, struct file_entry);
HASH_POLICY_MAP(deny_ipv4_map, struct ipv4_key, struct net_entry);
HASH_POLICY_MAP(deny_ipv6_map, struct ipv6_key, struct net_entry);
LPM_POLICY_MAP(deny_cidr_v4_map, struct cidr_v4_key, struct net_entry);
LPM_POLICY_MAP(deny_cidr_v6_map, struct cidr_v6_key, struct net_entry);
HASH_POLICY_MAP(deny_port_map, struct port_key, struct net_entry);
HASH_POLICY_MAP(deny_ip_port_v4_map, struct ip_port_v4_key, struct net_entry);
HASH_POLICY_MAP(deny_ip_port_v6_map, struct ip_port_v6_key, struct net_entry);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, AEGIS_CONFIG_MAX);
	__type(key, __u32);
	__type(value, __u64);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, AEGIS_SLOTS);
	__type(key, __u32);
	__type(value, struct slot_info);
} slot_info SEC(".maps");

/* max_entries of a slot's inner maps, in the order of slot_info.entries. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} capacities SEC(".maps");

/* Files that can always be read and run: what a person needs to get back in. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct inode_key);
	__type(value, __u32); /* generation */
} survival_allowlist SEC(".maps");

/* Outlives the slots: a rule that stays keeps its count. Sized at load. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct rule_hits);
} rule_hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, AEGIS_STAT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} block_stats SEC(".maps");

/* Sized at load. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

#endif
