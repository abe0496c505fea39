/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Which rule matches. A miss costs a look at the slot and one or two hash
 * lookups; everything else happens after a match.
 */
#ifndef AEGIS_MATCH_H
#define AEGIS_MATCH_H

/* include/uapi/linux/stat.h */
#define S_IFMT 00170000
#define S_IFDIR 0040000

struct slot {
	__u32 index;
	__u16 kinds;
	__u16 walk;
	__u64 typed; /* see LOAD; of 8 bytes, where 5.10 remembers a constant, too */
};

/*
 * A member of what a pointer leads to. The verifier knows the types of a hook's arguments and of
 * what they lead to, and takes a plain load, an instruction or two; from any other pointer only a
 * helper reads, at sixty. Which it is is a constant when the program is verified: the other half is
 * removed as dead code. Where a loop goes from pointer to pointer the helper reads: Linux 7.2 would
 * go through every turn for every type of pointer that may come out of the one before.
 */
#define LOAD(typed, pointer, ...)                                                                  \
	((typed) ? ___arrow(pointer, __VA_ARGS__) : BPF_CORE_READ(pointer, __VA_ARGS__))

/* The strictest rule found so far. */
struct match {
	__u64 uid; /* 0: none */
	__u8 op;
	__u8 enforce;
	__u8 signal;
};

static __always_inline __u64 config_of(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&config, &which);

	return value ? *value : 0;
}

/* Returns 0 when the active slot holds none of the wanted kinds. */
static __always_inline int slot_of(struct slot *s, __u32 wanted)
{
	struct slot_info *info;

	if (config_of(AEGIS_CONFIG_DISABLED))
		return 0;
	s->index = config_of(AEGIS_CONFIG_ACTIVE_SLOT) & 1;
	info = bpf_map_lookup_elem(&slot_info, &s->index);
	if (!info)
		return 0;
	s->kinds = info->kinds;
	s->walk = info->walk;
	return s->kinds & wanted;
}

static __always_inline void *slot_lookup(void *outer, const struct slot *s, const void *key)
{
	__u32 index = s->index;
	void *inner = bpf_map_lookup_elem(outer, &index);

	return inner ? bpf_map_lookup_elem(inner, key) : 0;
}

/* An audit rule never hides an enforcing one. */
static __always_inline void consider(struct match *m, const struct slot *s, __u64 uid, __u8 op)
{
	struct rule_attr *attr;

	if (!uid || m->enforce)
		return;
	attr = slot_lookup(&rules, s, &uid);
	if (!attr || (m->uid && !attr->enforce))
		return;
	m->uid = uid;
	m->op = op;
	m->enforce = attr->enforce;
	m->signal = attr->signal;
}

static __always_inline void consider_file(struct match *m, const struct slot *s,
					  const struct file_entry *e, __u32 ops)
{
	if (ops & OP(READ))
		consider(m, s, e->rule[AEGIS_OP_READ], AEGIS_OP_READ);
	if (ops & OP(WRITE))
		consider(m, s, e->rule[AEGIS_OP_WRITE], AEGIS_OP_WRITE);
	if (ops & OP(EXEC))
		consider(m, s, e->rule[AEGIS_OP_EXEC], AEGIS_OP_EXEC);
	if (ops & OP(MODIFY))
		consider(m, s, e->rule[AEGIS_OP_MODIFY], AEGIS_OP_MODIFY);
}

/*
 * An inode number that another file has now must not match. All directories above a dentry are of
 * its superblock, so their device is asked for once.
 */
static __always_inline struct file_entry *entry_of(void *outer, const struct slot *s,
						   struct inode *inode, __u32 dev, __u64 typed)
{
	struct inode_key key = { .ino = LOAD(typed, inode, i_ino), .dev = dev };
	struct file_entry *e;

	e = slot_lookup(outer, s, &key);
	if (e && !(e->flags & AEGIS_ANY_GENERATION) &&
	    e->generation != LOAD(typed, inode, i_generation))
		return 0;
	return e;
}

/* Own function: the key takes more than half of the stack a program has. */
static __noinline struct file_entry *name_entry(const struct slot *s, struct dentry *dentry,
						struct inode *dir, __u32 dev)
{
	struct name_key key;
	struct file_entry *e;

	if (!s)
		return 0;
	__builtin_memset(&key, 0, sizeof(key));
	key.ino = LOAD(s->typed, dir, i_ino);
	key.dev = dev;
	key.len = LOAD(s->typed, dentry, d_name.len);
	bpf_probe_read_kernel_str(key.name, sizeof(key.name), LOAD(s->typed, dentry, d_name.name));
	e = slot_lookup(&deny_path_map, s, &key);
	return e;
}

/*
 * Every directory above may have a rule that reaches down to this file; the
 * strictest counts. below: asked as well, but not of the rule of the directory
 * itself. Returns 0 always: the result is in m.
 */
static __noinline int match_dirs(struct match *m, struct slot *s, struct dentry *dentry, __u32 ops,
				 __u32 below)
{
	struct dentry *parent;
	struct file_entry *e;
	struct inode *inode;
	__u32 dev;

	if (!m || !s)
		return 0;
	dev = LOAD(s->typed, dentry, d_sb, s_dev);
	for (__u32 level = 0; level <= AEGIS_MAX_DEPTH; level++) {
		if (level > s->walk || m->enforce)
			return 0;
		inode = BPF_CORE_READ(dentry, d_inode);
		if (!level && inode && (BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFDIR)
			inode = 0; /* a file is below directories, it is none */
		e = inode ? entry_of(&deny_dir_map, s, inode, dev, 0) : 0;
		if (e && e->depth && e->depth >= level)
			consider_file(m, s, e, ops);
		ops |= below;
		parent = BPF_CORE_READ(dentry, d_parent);
		if (!parent || parent == dentry)
			return 0;
		dentry = parent;
	}
	return 0;
}

struct found {
	struct file_entry *inode;
	struct file_entry *name;
};

/* inode may be missing: a name that has no file yet. */
static __always_inline void find_file(struct found *f, const struct slot *s, struct dentry *dentry,
				      struct inode *inode)
{
	struct file_entry *parent;
	struct inode *dir;
	__u32 dev;

	f->inode = f->name = 0;
	/* Its own superblock: a file of an overlay has the dentry above and the inode below. */
	if (inode && (s->kinds & AEGIS_KIND_INODE))
		f->inode = entry_of(&deny_inode_map, s, inode, LOAD(s->typed, inode, i_sb, s_dev),
				    s->typed);
	if (!(s->kinds & AEGIS_KIND_PATH))
		return;
	dev = LOAD(s->typed, dentry, d_sb, s_dev);
	dir = LOAD(s->typed, dentry, d_parent, d_inode);
	parent = dir ? entry_of(&deny_dir_map, s, dir, dev, s->typed) : 0;
	if (parent && (parent->flags & AEGIS_DIR_HAS_NAMES))
		f->name = name_entry(s, dentry, dir, dev);
}

static __always_inline int enforces(const struct slot *s, __u64 uid)
{
	struct rule_attr *attr = uid ? slot_lookup(&rules, s, &uid) : 0;

	return attr && attr->enforce;
}

/*
 * Which of an inode's own rules refuse, wherever the file goes. A global
 * function, so that the verifier sees any number come back and not eight of them,
 * each to be followed up all directories.
 */
__noinline __u32 ops_kept(__u32 slot, __u64 read, __u64 write, __u64 exec)
{
	struct slot s = { .index = slot };
	__u32 ops = 0;

	if (enforces(&s, read))
		ops |= OP(READ);
	if (enforces(&s, write))
		ops |= OP(WRITE);
	if (enforces(&s, exec))
		ops |= OP(EXEC);
	return ops;
}

static __always_inline __u32 ops_lost(const struct slot *s, const struct file_entry *inode)
{
	__u32 all = OP(READ) | OP(WRITE) | OP(EXEC);

	if (!inode)
		return all;
	return all & ~ops_kept(s->index, inode->rule[AEGIS_OP_READ], inode->rule[AEGIS_OP_WRITE],
			       inode->rule[AEGIS_OP_EXEC]);
}

/* How a file leaves the place its rules may know it by. */
enum aegis_move {
	AEGIS_STAYS,
	AEGIS_LEAVES_NAME,
	AEGIS_LEAVES_DIR,
};

/*
 * A file known by its name or its directory would leave its rule behind when
 * moved or linked elsewhere, so what the rule denies, that is denied too. A rule
 * by name goes along where it is the inode's as well; a directory keeps its own.
 */
static __always_inline void match_file(struct match *m, struct slot *s, struct dentry *dentry,
				       struct inode *inode, __u32 ops, int move)
{
	struct found f;
	__u32 lost;

	find_file(&f, s, dentry, inode);
	if (f.inode)
		consider_file(m, s, f.inode, ops);
	lost = move ? ops_lost(s, f.inode) : 0;
	if (f.name)
		consider_file(m, s, f.name, ops | lost);
	if (s->walk)
		match_dirs(m, s, dentry, ops, move == AEGIS_LEAVES_DIR ? lost : 0);
}

static __always_inline void consider_net(struct match *m, const struct slot *s,
					 const struct net_entry *e, __u8 op)
{
	if (e)
		consider(m, s, op == AEGIS_OP_BIND ? e->rule[1] : e->rule[0], op);
}

static __always_inline void match_port(struct match *m, const struct slot *s, const struct peer *p,
				       __u8 op)
{
	struct port_key key = { .port = p->port, .protocol = p->protocol };

	consider_net(m, s, slot_lookup(&deny_port_map, s, &key), op);
	if (!key.protocol)
		return;
	key.protocol = 0;
	consider_net(m, s, slot_lookup(&deny_port_map, s, &key), op);
}

static __always_inline void match_v4(struct match *m, const struct slot *s, const struct peer *p,
				     __u8 op)
{
	struct ip_port_v4_key pair = { .port = p->port, .protocol = p->protocol };
	struct cidr_v4_key cidr = { .prefixlen = 32 };

	__builtin_memcpy(pair.addr, p->addr, 4);
	__builtin_memcpy(cidr.addr, p->addr, 4);
	if (s->kinds & AEGIS_KIND_IPV4)
		consider_net(m, s, slot_lookup(&deny_ipv4_map, s, cidr.addr), op);
	if (s->kinds & AEGIS_KIND_CIDR_V4)
		consider_net(m, s, slot_lookup(&deny_cidr_v4_map, s, &cidr), op);
	if (!(s->kinds & AEGIS_KIND_IP_PORT_V4))
		return;
	consider_net(m, s, slot_lookup(&deny_ip_port_v4_map, s, &pair), op);
	pair.protocol = 0;
	consider_net(m, s, slot_lookup(&deny_ip_port_v4_map, s, &pair), op);
}

static __always_inline void match_v6(struct match *m, const struct slot *s, const struct peer *p,
				     __u8 op)
{
	struct ip_port_v6_key pair = { .port = p->port, .protocol = p->protocol };
	struct cidr_v6_key cidr = { .prefixlen = 128 };

	__builtin_memcpy(pair.addr, p->addr, 16);
	__builtin_memcpy(cidr.addr, p->addr, 16);
	if (s->kinds & AEGIS_KIND_IPV6)
		consider_net(m, s, slot_lookup(&deny_ipv6_map, s, cidr.addr), op);
	if (s->kinds & AEGIS_KIND_CIDR_V6)
		consider_net(m, s, slot_lookup(&deny_cidr_v6_map, s, &cidr), op);
	if (!(s->kinds & AEGIS_KIND_IP_PORT_V6))
		return;
	consider_net(m, s, slot_lookup(&deny_ip_port_v6_map, s, &pair), op);
	pair.protocol = 0;
	consider_net(m, s, slot_lookup(&deny_ip_port_v6_map, s, &pair), op);
}

static __always_inline void match_net(struct match *m, const struct slot *s, const struct peer *p,
				      __u8 op)
{
	if (p->family == 4)
		match_v4(m, s, p, op);
	else
		match_v6(m, s, p, op);
	if (s->kinds & AEGIS_KIND_PORT)
		match_port(m, s, p, op);
}

#endif
