/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the block layer's tracepoints give, with the members we read. */
#ifndef AEGIS_MONITORS_BLOCK_TYPES_H
#define AEGIS_MONITORS_BLOCK_TYPES_H

#include "kernel_types.h"

struct gendisk {
	int major;
	int first_minor;
} CORE;

struct block_device {
	__u32 bd_dev;
	struct gendisk *bd_disk;
} CORE;

struct request_queue {
	struct gendisk *disk;
} CORE;

struct bvec_iter {
	__u64 bi_sector;
	__u32 bi_size;
} CORE;

struct bio {
	struct bio *bi_next;
	struct block_device *bi_bdev;
	__u32 bi_opf;
	struct bvec_iter bi_iter;
	void *bi_private;
} CORE;

struct request {
	struct request_queue *q;
	__u32 cmd_flags;
	__u32 __data_len;
	__u64 __sector;
	struct bio *bio;
	void *part; /* hd_struct or block_device */
} CORE;

/* Before 5.17 and 5.12. */
struct request___old {
	struct gendisk *rq_disk;
} CORE;

struct bio___old {
	struct gendisk *bi_disk;
} CORE;

/* Before 5.11, where block tracepoints had the queue as their first argument. */
struct device {
	__u32 devt;
} CORE;

struct hd_struct {
	struct device __dev;
} CORE;

enum req_flag_bits {
	__REQ_FUA = 17,
	__REQ_PREFLUSH = 18,
};

#endif
