/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The memory monitor for kernels before 6.1. */
#define WITH_NODES
#include "monitors/memory-monitor.bpf.c"
