/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The network monitor for kernels before 6.5. */
#define WITH_SENDPAGE
#include "monitors/network-monitor.bpf.c"
