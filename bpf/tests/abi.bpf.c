/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Every type of aegis.h as a variable, so that this object's BTF describes them
 * all; the programs' own BTF leaves out what is only ever a map's size.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "aegis.h"

enum abi_constant {
	ABI_LAYOUT = AEGIS_LAYOUT,
	ABI_SLOTS = AEGIS_SLOTS,
	ABI_NAME_MAX = AEGIS_NAME_MAX,
	ABI_MAX_DEPTH = AEGIS_MAX_DEPTH,
	ABI_EVENT_PATH = AEGIS_EVENT_PATH,
	ABI_MANUAL_TEXT = AEGIS_MANUAL_TEXT,
	ABI_DIR_HAS_NAMES = AEGIS_DIR_HAS_NAMES,
};

enum abi_constant constant_;
enum aegis_op op_;
enum aegis_config config_;
enum aegis_mode mode_;
enum aegis_kind kind_;
enum aegis_hook hook_;
enum aegis_action action_;
enum aegis_reason reason_;
enum aegis_stat stat_;
struct inode_key inode_key_;
struct file_entry file_entry_;
struct name_key name_key_;
struct path_key path_key_;
struct net_entry net_entry_;
struct ipv4_key ipv4_key_;
struct ipv6_key ipv6_key_;
struct cidr_v4_key cidr_v4_key_;
struct cidr_v6_key cidr_v6_key_;
struct port_key port_key_;
struct ip_port_v4_key ip_port_v4_key_;
struct ip_port_v6_key ip_port_v6_key_;
struct rule_attr rule_attr_;
struct rule_hits rule_hits_;
struct manual_rule manual_rule_;
struct slot_info slot_info_;
struct event event_;
struct file_event file_event_;
struct inode_id inode_id_;
