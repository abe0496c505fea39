/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The few kernel types we read, with only the members we read: the loader
 * relocates each access to where the running kernel has it (CO-RE), so no
 * vmlinux.h of any one kernel is needed.
 */
#ifndef AEGIS_KERNEL_TYPES_H
#define AEGIS_KERNEL_TYPES_H

#define CORE __attribute__((preserve_access_index))

struct super_block {
	__u32 s_dev;
} CORE;

struct inode {
	__u16 i_mode;
	__u32 i_flags;
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_generation;
} CORE;

struct qstr {
	__u32 len;
	const unsigned char *name;
} CORE;

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct super_block *d_sb;
	struct inode *d_inode;
} CORE;

struct path {
	struct dentry *dentry;
} CORE;

struct file {
	struct inode *f_inode;
	struct path f_path;
	__u32 f_flags;
	__u32 f_mode;
} CORE;

struct backing_file {
	struct path user_path;
} CORE;

struct vm_area_struct {
	struct file *vm_file;
} CORE;

struct iattr {
	__u32 ia_valid;
} CORE;

struct mnt_idmap;

/* Only asked whether it has a member: see aegis_inode_setattr. */
union security_list_options {
	void *inode_post_setattr;
} CORE;

struct in6_addr {
	__u8 in6_u[16];
} CORE;

struct sock_common {
	__u16 skc_family;
	__u16 skc_num;
	__be16 skc_dport;
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} CORE;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	__u16 sk_type;
	int sk_err;
} CORE;

struct inet_sock {
	__be16 inet_sport;
} CORE;

struct socket {
	struct sock *sk;
} CORE;

struct msghdr {
	void *msg_name;
	int msg_namelen;
	void *msg_control;
	unsigned long msg_controllen;
	__u32 msg_flags;
} CORE;

struct sockaddr {
	__u16 sa_family;
} CORE;

struct kernfs_node {
	__u64 id;
} CORE;

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} CORE;

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
} CORE;

struct css_set {
	struct cgroup *dfl_cgrp;
} CORE;

typedef struct {
	int counter;
} CORE atomic_t;

struct signal_struct {
	atomic_t live;
	__u32 flags;
	int group_exit_code;
} CORE;

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
} CORE;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} CORE;

struct files_struct {
	struct fdtable *fdt;
} CORE;

struct thread_info {
	__u32 status;
} CORE;

struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	int exit_code;
	__u64 start_boottime;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	struct files_struct *files;
	struct signal_struct *signal;
	struct css_set *cgroups;
	char comm[16];
} CORE;

struct linux_binprm {
	struct file *file;
} CORE;

struct pt_regs {
	unsigned long di;
	unsigned long si;
	unsigned long dx;
	unsigned long orig_ax;
} CORE;

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} CORE;

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} CORE;

#endif
