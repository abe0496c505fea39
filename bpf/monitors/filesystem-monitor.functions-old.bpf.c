/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The same on kernels before 6.6. */
#define CLOSE "filp_close"
#include "monitors/filesystem-monitor.functions.bpf.c"
