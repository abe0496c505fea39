/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What the monitors and user space share: records, keys, numbers. No padding
 * is left to the compiler; aegis_tools/monitors/layout.py says the same, and a
 * test compares the two by the objects' BTF.
 */
#ifndef AEGIS_MONITOR_H
#define AEGIS_MONITOR_H

#define MONITOR_COMM 16
#define MONITOR_PATH 4096
#define MONITOR_ARGS 4096

/* What a record tells of; each monitor counts from 1. */
enum process_type {
	PROCESS_EXEC = 1,
	PROCESS_EXIT
};
enum filesystem_type {
	FILESYSTEM_OPEN = 1,
	FILESYSTEM_READ,
	FILESYSTEM_WRITE,
	FILESYSTEM_CLOSE
};
enum network_type {
	NETWORK_CONNECT = 1,
	NETWORK_SEND,
	NETWORK_RECEIVE
};
enum memory_type {
	MEMORY_KMALLOC = 1,
	MEMORY_KFREE,
	MEMORY_PAGE_ALLOC,
	MEMORY_PAGE_FREE
};
enum disk_io_type {
	DISK_IO_ISSUE = 1,
	DISK_IO_COMPLETE,
	DISK_IO_QUEUE
};

/* Something of the record was longer than what it holds. */
#define MONITOR_CUT 1
/* Who caused it is not known: the process is the one that was interrupted. */
#define MONITOR_NOT_CAUSE 2

struct monitor_comm {
	char text[MONITOR_COMM];
};

struct monitor_head {
	__u64 time_ns; /* boot clock */
	__u64 cgroup;
	__u32 pid; /* the process: tgid */
	__u32 tid;
	__u32 ppid;
	__u32 uid;
	__u32 gid;
	__u16 type;
	__u16 flags;
	char comm[MONITOR_COMM];
};

/* path_len bytes of names, the file's first, each ended by 0; then args_len bytes of arguments. */
struct process_event {
	struct monitor_head head;
	__u64 age_ns; /* exit: since the process began */
	__u64 ino;
	__u32 dev;
	__u32 status; /* exit: as waitpid has it */
	__u32 path_len;
	__u32 args_len;
	__u32 args_total; /* what there were */
	__u32 pad;
};

/* path_len bytes of names, as above: of opens only, none of the root or where the open failed. */
struct filesystem_event {
	struct monitor_head head;
	__u64 bytes; /* really moved */
	__u64 ino;
	__u32 dev;
	__s32 result; /* open: descriptor or -errno; close: 0 or -errno; else bytes or -errno */
	__u32 open_flags; /* of opens only, as asked for; without O_LARGEFILE */
	__u32 path_len;
};

struct network_event {
	struct monitor_head head;
	__u64 bytes; /* really moved */
	__u32 family;
	__u32 protocol; /* IPPROTO_ */
	__u16 local_port;
	__u16 remote_port;
	__s32 result;
	__u8 local[16]; /* the first 4 bytes for IPv4 */
	__u8 remote[16];
};

/* One allocation or free of at least the filter's min_bytes; all are in MEMORY_TOTALS. */
struct memory_event {
	struct monitor_head head;
	__u64 bytes; /* 0: not known, as of a kfree */
	__u32 order;
	__u32 pad;
};

struct memory_key {
	__u32 pid;
	__u8 type;
	__u8 size_class; /* n: more than half of 2^n bytes, at most 2^n; 0: not known */
	__u8 pad[2];
};

struct memory_total {
	__u64 count;
	__u64 bytes;
	char comm[MONITOR_COMM];
};

struct disk_io_event {
	struct monitor_head head;
	__u64 sector;
	__u64 bytes;
	__u64 queued_ns; /* queue to issue; 0: not known */
	__u64 latency_ns; /* issue to complete */
	__u32 dev; /* major << 20 | minor of the disk */
	__u32 part; /* the same of the partition; the disk's where there is none */
	__u32 operation; /* REQ_OP_ */
	__s32 error;
};

/* What is let through: one element. */
struct monitor_filter {
	__u64 min_bytes;
	__u32 sample; /* let through where a random u32 is below; ~0: all */
	__u32 not_pid; /* the reader itself */
	__u8 by_uid; /* these sets are not empty; any of them is enough */
	__u8 by_cgroup;
	__u8 by_comm;
	__u8 off;
	__u32 pad;
};

enum monitor_stat {
	MONITOR_SEEN, /* calls of probes that told of something */
	MONITOR_SENT,
	MONITOR_DROPPED, /* no room in the ring */
	MONITOR_FILTERED,
	MONITOR_SAMPLED_OUT,
	MONITOR_BUSY, /* the scratch buffer was in use: dropped as well */
	MONITOR_UNTRACKED, /* a map had no room: latency or totals are missing; see each monitor */
	MONITOR_STATS_MAX,
};

#endif
