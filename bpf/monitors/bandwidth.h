/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What bandwidth.bpf.c and aegis_tools/monitors/profiles/bandwidth.py share. */
#ifndef AEGIS_BANDWIDTH_H
#define AEGIS_BANDWIDTH_H

enum bandwidth_direction {
	BANDWIDTH_IN,
	BANDWIDTH_OUT,
	BANDWIDTH_DIRECTIONS
};

/* The same for each direction. */
struct bandwidth_limit {
	__u64 rate; /* bytes a second; 0: count, drop nothing */
	__u64 burst; /* bytes that can be saved while in use */
	__u64 idle_burst; /* after a second of silence */
};

/* Bytes of IP packets as the stack hands them over; loopback is left out. */
struct bandwidth_count {
	__u64 passed_bytes;
	__u64 dropped_bytes;
	__u64 passed_packets;
	__u64 dropped_packets;
};

#endif
