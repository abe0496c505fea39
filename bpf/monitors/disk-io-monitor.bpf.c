/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Block requests: queued by whom, issued to the device, completed. Who queued the first bio of a
 * request is its cause, and the filter is asked about that one, when it queues.
 */
#include "monitors/common.h"
#include "monitors/block_types.h"

MONITOR_NAME("disk-io-monitor");
EVENTS(DISK_IO_EVENTS, 1 << 19);

#define OPERATION 0xff
#define REQ_OP_FLUSH 2
#define MINOR_BITS 20
#define NO_SECTOR (~0ULL)
#define EIO 5
/* Of one request: as many as the usual largest request has pages, and then some. */
#define BIOS 512

enum verdict {
	TELL,
	FILTERED,
	SAMPLED_OUT,
	SILENT
};

struct cause {
	struct monitor_head head; /* of when it was queued */
	__u32 verdict;
	__u32 pad;
};

struct pending {
	struct monitor_head head;
	__u64 issued_ns;
	__u64 queued_ns;
};

/*
 * Bios from their queueing to their end, wherever they are merged meanwhile. One whose end is
 * missed makes room in time; one that is missed when it is issued is counted as untracked.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct cause);
} QUEUED_IO SEC(".maps");

/* Requests that the device has, and that are told of. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, __u64);
	__type(value, struct pending);
} PENDING_IO SEC(".maps");

/* Where it is done: the numbers of the disk and of the partition. */
struct place {
	__u32 dev;
	__u32 part;
};

static __always_inline int is_old(void)
{
	return bpf_core_type_exists(struct hd_struct);
}

static __always_inline __u32 disk_number(struct gendisk *disk)
{
	return disk ? disk->major << MINOR_BITS | disk->first_minor : 0;
}

/* Linux 5.10 has replaced a bio's partition by its disk before it can be seen. */
static __always_inline struct place place_of_bio(struct bio *bio)
{
	struct bio___old *old = (void *)bio;
	struct block_device *bdev;
	struct place place;

	if (bpf_core_field_exists(old->bi_disk)) {
		place.dev = place.part = disk_number(old->bi_disk);
		return place;
	}
	bdev = bio->bi_bdev;
	place.dev = disk_number(bdev->bd_disk);
	place.part = bdev->bd_dev;
	return place;
}

static __always_inline struct gendisk *disk_of(struct request *rq)
{
	struct request___old *old = (void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return old->rq_disk;
	return rq->q->disk;
}

/* A request knows its partition only where the queue keeps statistics. */
static __always_inline struct place place_of(struct request *rq)
{
	struct bio *bio = rq->bio;
	void *part = rq->part;
	struct place place;

	place.dev = place.part = disk_number(disk_of(rq));
	if (!part && bio)
		place.part = place_of_bio(bio).part;
	else if (part && is_old())
		place.part = ((struct hd_struct *)part)->__dev.devt;
	else if (part)
		place.part = ((struct block_device *)part)->bd_dev;
	return place;
}

/* A write of nothing that asks for a flush first is a flush. */
static __always_inline __u32 operation_of(__u32 flags, __u32 bytes)
{
	__u32 preflush = 1U << bpf_core_enum_value(enum req_flag_bits, __REQ_PREFLUSH);

	return !bytes && flags & preflush ? REQ_OP_FLUSH : flags & OPERATION;
}

/* Of the current process, as the one that queues. */
static __always_inline __u32 judge(void)
{
	struct monitor_filter *f = active_filter();

	if (!f)
		return SILENT;
	if (!of_interest(f))
		return FILTERED;
	return in_sample(f) ? TELL : SAMPLED_OUT;
}

/* Of what nobody is known to have queued. */
static __always_inline __u32 judge_unknown(void)
{
	__u32 zero = 0;
	struct monitor_filter *f = bpf_map_lookup_elem(&filter, &zero);

	if (!f || f->off)
		return SILENT;
	if (f->by_uid || f->by_cgroup || f->by_comm)
		return FILTERED;
	return in_sample(f) ? TELL : SAMPLED_OUT;
}

/* 1 when this one is to be told of; counts it either way. */
static __always_inline int is_told(__u32 verdict, __u64 bytes)
{
	__u32 zero = 0;
	struct monitor_filter *f = bpf_map_lookup_elem(&filter, &zero);

	if (!f || f->off || verdict == SILENT)
		return 0;
	count(MONITOR_SEEN);
	if (verdict == FILTERED || bytes < f->min_bytes) {
		count(MONITOR_FILTERED);
		return 0;
	}
	if (verdict == SAMPLED_OUT)
		count(MONITOR_SAMPLED_OUT);
	return verdict == TELL;
}

static __always_inline struct disk_io_event *reserve(const struct monitor_head *head, __u16 type,
						     __u64 now)
{
	struct disk_io_event *e = bpf_ringbuf_reserve(&DISK_IO_EVENTS, sizeof(*e), 0);

	if (!e) {
		count(MONITOR_DROPPED);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->head = *head;
	e->head.type = type;
	e->head.time_ns = now;
	return e;
}

static __always_inline void submit(struct disk_io_event *e, struct place place, __u64 sector)
{
	e->dev = place.dev;
	e->part = place.part;
	e->sector = sector == NO_SECTOR ? 0 : sector;
	bpf_ringbuf_submit(e, 0);
	count(MONITOR_SENT);
}

/* The bios that end with so many bytes of their request. */
static __noinline int forget(struct bio *bio, __u64 bytes)
{
	__u64 key, size;

	for (int i = 0; i < BIOS; i++) {
		if (!bio)
			break;
		size = bio->bi_iter.bi_size;
		if (size > bytes)
			break;
		bytes -= size;
		key = (__u64)bio;
		bpf_map_delete_elem(&QUEUED_IO, &key);
		bio = bio->bi_next;
	}
	return 0;
}

static __always_inline struct cause *cause_of(struct request *rq)
{
	__u64 key = (__u64)rq->bio;

	return key ? bpf_map_lookup_elem(&QUEUED_IO, &key) : 0;
}

static __always_inline __u32 find_cause(struct request *rq, struct pending *p)
{
	struct cause *cause = cause_of(rq);

	p->issued_ns = bpf_ktime_get_boot_ns();
	if (cause) {
		p->head = cause->head;
		p->queued_ns = p->issued_ns - cause->head.time_ns;
		return cause->verdict;
	}
	fill_head(&p->head, DISK_IO_ISSUE);
	p->head.flags = MONITOR_NOT_CAUSE;
	if (rq->bio) /* a flush has none */
		count(MONITOR_UNTRACKED);
	return judge_unknown();
}

/* The first program of the object: bpftool prog load pins that one, and the maps that it uses. */
SEC("tp_btf/block_rq_issue")
int block_rq_issue(__u64 *ctx)
{
	struct request *rq = (void *)ctx[0];
	__u32 bytes = rq->__data_len;
	struct pending p = {};
	struct disk_io_event *e;
	__u64 key = (__u64)rq;

	bpf_map_delete_elem(&PENDING_IO, &key);
	if (!is_told(find_cause(rq, &p), bytes))
		return 0;
	if (bpf_map_update_elem(&PENDING_IO, &key, &p, BPF_ANY))
		count(MONITOR_UNTRACKED);
	e = reserve(&p.head, DISK_IO_ISSUE, p.issued_ns);
	if (!e)
		return 0;
	e->bytes = bytes;
	e->queued_ns = p.queued_ns;
	e->operation = operation_of(rq->cmd_flags, bytes);
	submit(e, place_of(rq), rq->__sector);
	return 0;
}

/* The device did not take it, or gave it back: it will be issued again. */
SEC("tp_btf/block_rq_requeue")
int block_rq_requeue(__u64 *ctx)
{
	__u64 key = ctx[0];

	bpf_map_delete_elem(&PENDING_IO, &key);
	return 0;
}

/* blk_status_to_errno(), as far as its numbers never changed; 5.10 has that done already. */
static __always_inline __s32 error_of(__s32 status)
{
	static const __s32 errors[] = { 0, 95, 110, 28, 67, 121, 52, 61, 84, 12, EIO, 78, 11, 16 };

	if (status <= 0)
		return status;
	return status < sizeof(errors) / sizeof(errors[0]) ? -errors[status] : -EIO;
}

/*
 * An error of what the device never had is told as well; but a flush ends what it belongs to once
 * more, which is not.
 */
static __always_inline int find_failed(struct request *rq, struct pending *p)
{
	__u32 fua = 1U << bpf_core_enum_value(enum req_flag_bits, __REQ_FUA);
	__u32 preflush = 1U << bpf_core_enum_value(enum req_flag_bits, __REQ_PREFLUSH);
	struct cause *cause = cause_of(rq);

	if (!cause || rq->cmd_flags & (fua | preflush))
		return 0;
	p->head = cause->head;
	return is_told(cause->verdict, rq->__data_len);
}

static __always_inline void completed(struct request *rq, __s32 error, __u32 bytes)
{
	__u64 key = (__u64)rq, now = bpf_ktime_get_boot_ns();
	struct pending p = {}, *found = bpf_map_lookup_elem(&PENDING_IO, &key);
	struct disk_io_event *e;

	if (found) {
		p = *found;
		count(MONITOR_SEEN);
		if (bytes >= rq->__data_len)
			bpf_map_delete_elem(&PENDING_IO, &key);
	} else if (!error || !find_failed(rq, &p)) {
		return;
	}
	e = reserve(&p.head, DISK_IO_COMPLETE, now);
	if (!e)
		return;
	e->bytes = error ? 0 : bytes;
	e->queued_ns = p.queued_ns;
	e->latency_ns = p.issued_ns ? now - p.issued_ns : 0;
	e->operation = operation_of(rq->cmd_flags, bytes);
	e->error = error;
	submit(e, place_of(rq), rq->__sector);
}

/* (request, error, bytes): some of it, where there is more to come. */
SEC("tp_btf/block_rq_complete")
int block_rq_complete(__u64 *ctx)
{
	struct request *rq = (void *)ctx[0];
	__u32 bytes = ctx[2];

	completed(rq, error_of(ctx[1]), bytes);
	forget(rq->bio, bytes);
	return 0;
}

SEC("tp_btf/block_bio_queue")
int block_bio_queue(__u64 *ctx)
{
	struct bio *bio = (void *)(is_old() ? ARGUMENT(ctx, 1) : ARGUMENT(ctx, 0));
	__u32 bytes = bio->bi_iter.bi_size;
	struct cause cause = { .verdict = judge() };
	struct disk_io_event *e;
	__u64 key = (__u64)bio;

	fill_head(&cause.head, DISK_IO_QUEUE);
	if (bpf_map_update_elem(&QUEUED_IO, &key, &cause, BPF_ANY))
		count(MONITOR_UNTRACKED);
	if (!is_told(cause.verdict, bytes))
		return 0;
	e = reserve(&cause.head, DISK_IO_QUEUE, cause.head.time_ns);
	if (!e)
		return 0;
	e->bytes = bytes;
	e->operation = operation_of(bio->bi_opf, bytes);
	submit(e, place_of_bio(bio), bio->bi_iter.bi_sector);
	return 0;
}

/* The first part of a bio that is too long is a new one, which tells the rest of its end. */
SEC("tp_btf/block_split")
int block_split(__u64 *ctx)
{
	struct bio *bio = (void *)(is_old() ? ARGUMENT(ctx, 1) : ARGUMENT(ctx, 0));
	__u64 key = (__u64)bio, rest = (__u64)bio->bi_private;
	struct cause *cause = bpf_map_lookup_elem(&QUEUED_IO, &rest);

	if (cause && bpf_map_update_elem(&QUEUED_IO, &key, cause, BPF_ANY))
		count(MONITOR_UNTRACKED);
	return 0;
}

/* Bios that are no part of a request: the kernel tells this of no others. */
SEC("tp_btf/block_bio_complete")
int block_bio_complete(__u64 *ctx)
{
	__u64 key = ctx[1];

	bpf_map_delete_elem(&QUEUED_IO, &key);
	return 0;
}
