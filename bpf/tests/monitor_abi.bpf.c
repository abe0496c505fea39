/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every type of monitor.h as a variable: see abi.bpf.c. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "monitors/monitor.h"

enum abi_constant {
	ABI_COMM = MONITOR_COMM,
	ABI_PATH = MONITOR_PATH,
	ABI_ARGS = MONITOR_ARGS,
	ABI_CUT = MONITOR_CUT,
	ABI_NOT_CAUSE = MONITOR_NOT_CAUSE,
};

enum abi_constant constant_;
enum process_type process_type_;
enum filesystem_type filesystem_type_;
enum network_type network_type_;
enum memory_type memory_type_;
enum disk_io_type disk_io_type_;
enum monitor_stat stat_;
struct monitor_comm comm_;
struct monitor_head head_;
struct monitor_filter filter_;
struct process_event process_event_;
struct filesystem_event filesystem_event_;
struct network_event network_event_;
struct memory_event memory_event_;
struct memory_key memory_key_;
struct memory_total memory_total_;
struct disk_io_event disk_io_event_;
