/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Layouts shared by the BPF programs and user space.
 *
 * aegis_tools/kernel/layout.py says the same in Python; a test compares the two
 * by the object's BTF. Every struct is padded by hand: no hidden bytes, because
 * map keys are compared as bytes.
 */
#ifndef AEGIS_H
#define AEGIS_H

#define AEGIS_LAYOUT 2
#define AEGIS_SLOTS 2
#define AEGIS_NAME_MAX 256
#define AEGIS_MAX_DEPTH 32
#define AEGIS_EVENT_PATH 512
#define AEGIS_MANUAL_TEXT 1000

/* Bit numbers of aegis_tools.policy.model.Op. */
enum aegis_op {
	AEGIS_OP_READ,
	AEGIS_OP_WRITE,
	AEGIS_OP_EXEC,
	AEGIS_OP_MODIFY,
	AEGIS_OP_EGRESS,
	AEGIS_OP_BIND,
};

#define AEGIS_FILE_OPS 4
#define AEGIS_NET_OPS 2

/*
 * Each setting is an element of its own, written whole: two processes that
 * change two settings never undo each other, and no reader sees half a change.
 */
enum aegis_config {
	AEGIS_CONFIG_ACTIVE_SLOT, /* 0 or 1 */
	AEGIS_CONFIG_MODE, /* enum aegis_mode */
	AEGIS_CONFIG_DEADLINE, /* boot clock, ns; past it enforce is audit; 0 = none */
	AEGIS_CONFIG_SAMPLE, /* events sent of 2^32 matches; 2^32 = every one */
	AEGIS_CONFIG_DISABLED, /* 1: every hook returns at once */
	AEGIS_CONFIG_LAYOUT, /* AEGIS_LAYOUT of the object that was loaded */
	AEGIS_CONFIG_MAX,
};

enum aegis_mode {
	AEGIS_MODE_AUDIT,
	AEGIS_MODE_ENFORCE,
};

/* Bits of slot_info.kinds: which maps of the slot hold anything. */
enum aegis_kind {
	AEGIS_KIND_INODE = 1,
	AEGIS_KIND_PATH = 2,
	AEGIS_KIND_DIR = 4,
	AEGIS_KIND_IPV4 = 8,
	AEGIS_KIND_IPV6 = 16,
	AEGIS_KIND_CIDR_V4 = 32,
	AEGIS_KIND_CIDR_V6 = 64,
	AEGIS_KIND_PORT = 128,
	AEGIS_KIND_IP_PORT_V4 = 256,
	AEGIS_KIND_IP_PORT_V6 = 512,
	AEGIS_KIND_AUDIT_PATH = 1024,
};

#define AEGIS_KINDS_FILE (AEGIS_KIND_INODE | AEGIS_KIND_PATH | AEGIS_KIND_DIR)
#define AEGIS_KINDS_NET                                                                            \
	(AEGIS_KIND_IPV4 | AEGIS_KIND_IPV6 | AEGIS_KIND_CIDR_V4 | AEGIS_KIND_CIDR_V6 |             \
	 AEGIS_KIND_PORT | AEGIS_KIND_IP_PORT_V4 | AEGIS_KIND_IP_PORT_V6)

/* Which kernel function asked. */
enum aegis_hook {
	AEGIS_HOOK_OPEN = 1,
	AEGIS_HOOK_MMAP,
	AEGIS_HOOK_MPROTECT,
	AEGIS_HOOK_SETATTR,
	AEGIS_HOOK_UNLINK,
	AEGIS_HOOK_RENAME,
	AEGIS_HOOK_LINK,
	AEGIS_HOOK_CREATE,
	AEGIS_HOOK_CONNECT,
	AEGIS_HOOK_BIND,
	AEGIS_HOOK_SENDMSG,
	AEGIS_HOOK_SYSCALL, /* audit fallback: the path a system call was given */
};

enum aegis_action {
	AEGIS_ALLOW,
	AEGIS_AUDIT,
	AEGIS_BLOCK,
	AEGIS_TERM, /* refused, and SIGTERM sent */
	AEGIS_KILL,
	AEGIS_INT,
};

/* Why a match did not refuse. */
enum aegis_reason {
	AEGIS_REASON_NONE,
	AEGIS_REASON_RULE_AUDIT,
	AEGIS_REASON_MODE_AUDIT,
	AEGIS_REASON_DEADLINE,
	AEGIS_REASON_CGROUP,
	AEGIS_REASON_SURVIVAL,
	AEGIS_REASON_FALLBACK, /* no LSM: nothing can be refused */
};

/* Indexes of the per-CPU counters in block_stats. */
enum aegis_stat {
	AEGIS_STAT_BLOCKS,
	AEGIS_STAT_AUDITS,
	AEGIS_STAT_TERM,
	AEGIS_STAT_KILL,
	AEGIS_STAT_INT,
	AEGIS_STAT_CONNECT_BLOCKS,
	AEGIS_STAT_BIND_BLOCKS,
	AEGIS_STAT_SEND_BLOCKS,
	AEGIS_STAT_CGROUP_ALLOWED,
	AEGIS_STAT_SURVIVAL_ALLOWED,
	AEGIS_STAT_EVENTS,
	AEGIS_STAT_RINGBUF_DROPS,
	AEGIS_STAT_SAMPLED_OUT,
	AEGIS_STAT_HITS_LOST, /* rule_hits was full */
	AEGIS_STAT_MAX,
};

struct inode_key {
	__u64 ino;
	__u32 dev; /* the kernel's s_dev: major << 20 | minor */
	__u32 pad;
};

/* Bits of file_entry.flags. */
#define AEGIS_DIR_HAS_NAMES 1 /* deny_dir_map: look the name up in deny_path_map */
#define AEGIS_ANY_GENERATION 2 /* the rule names an inode number, whatever file has it */

/* Rule uids by operation; 0 = none. Value of deny_inode_map, deny_path_map, deny_dir_map. */
struct file_entry {
	__u64 rule[AEGIS_FILE_OPS];
	__u32 generation; /* of the inode in the key */
	__u16 depth; /* deny_dir_map: levels below that are covered; 0 = none */
	__u16 flags;
};

/* Key of deny_path_map: a name in a directory. The name is padded with zeros. */
struct name_key {
	__u64 ino;
	__u32 dev;
	__u32 len;
	char name[AEGIS_NAME_MAX];
};

/* Key of audit_path_map, used without BPF LSM only. Padded with zeros. */
struct path_key {
	char path[AEGIS_NAME_MAX];
};

struct net_entry {
	__u64 rule[AEGIS_NET_OPS]; /* AEGIS_OP_EGRESS, AEGIS_OP_BIND */
};

struct ipv4_key {
	__u8 addr[4];
};

struct ipv6_key {
	__u8 addr[16];
};

struct cidr_v4_key {
	__u32 prefixlen;
	__u8 addr[4];
};

struct cidr_v6_key {
	__u32 prefixlen;
	__u8 addr[16];
};

struct port_key {
	__u16 port; /* host byte order */
	__u8 protocol; /* 6, 17, or 0 for any */
	__u8 pad;
};

struct ip_port_v4_key {
	__u8 addr[4];
	__u16 port;
	__u8 protocol;
	__u8 pad;
};

struct ip_port_v6_key {
	__u8 addr[16];
	__u16 port;
	__u8 protocol;
	__u8 pad;
};

struct rule_attr {
	__u8 enforce; /* enum aegis_mode */
	__u8 signal; /* number; 0 = none */
	__u8 pad[6];
};

struct rule_hits {
	__u64 blocks;
	__u64 audits;
	__u64 last_ns; /* boot clock */
};

/* A rule made by hand: kept beside its entries, since no file says what it means. */
struct manual_rule {
	__u64 added_ns; /* wall clock */
	__u32 added_by; /* uid */
	__u32 operations;
	__u8 enforce;
	__u8 signal;
	__u16 depth;
	__u32 length; /* of text */
	char text[AEGIS_MANUAL_TEXT]; /* KIND:TARGET */
};

struct slot_info {
	__u32 kinds;
	__u32 walk; /* directory levels a lookup has to climb; 0 = no directory rules */
	__u64 applied_ns; /* wall clock */
	__u64 serial; /* of the bundle; 0 = unsigned */
	__u8 bundle[32]; /* digest of the stored bundle; zeros = none */
	__u8 content[32]; /* digest of the maps as committed */
	__u32 entries[16]; /* by map, in the order of layout.py */
};

/*
 * From dev on, everything is the same for the same access by the same kind of
 * process: with the path behind it, it is what user space folds repetitions by.
 */
struct event {
	__u64 time_ns; /* boot clock */
	__u64 ino;
	__u32 pid;
	__u32 tid;
	__u32 ppid;
	__u32 dev;
	__u32 uid;
	__u32 gid;
	__u64 cgroup;
	__u64 rule; /* uid */
	__u64 bundle; /* the first bytes of slot_info.bundle; 0 = none */
	__u8 hook;
	__u8 op;
	__u8 action;
	__u8 reason;
	__u16 port; /* host byte order */
	__u8 protocol;
	__u8 family; /* 4, 6, or 0 for a file */
	__u8 addr[16]; /* IPv4 in the first four */
	char comm[16];
	char parent_comm[16];
};

/*
 * Names from the file up to the root of its file system, each ended by a zero:
 * "shadow\0etc\0". Only the first path_len bytes mean anything. A path that does
 * not fit lacks its beginning and has path_cut set.
 */
struct file_event {
	struct event event;
	__u32 path_len;
	__u32 path_cut;
	char path[AEGIS_EVENT_PATH];
};

/* One line of the inode_keys iterator. */
struct inode_id {
	__u64 ino;
	__u32 fd;
	__u32 dev;
	__u32 generation;
	__u32 mode;
};

#endif
