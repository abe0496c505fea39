"""Which monitors there are, and of what each consists. Names and maps are those of seed 001."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_tools.errors import UsageError


@dataclass(frozen=True)
class Variant:
    """One way for a monitor to see what it tells of.

    Attributes:
        name: ``portable``, or what is particular about it.
        object: The file in ``objects/``; the portable one has the monitor's own name.
        needs: Kernel functions and tracepoints that it attaches to, as BTF names them: FUNC names,
            and ``btf_trace_NAME`` typedefs.
        lacks: The same, of what the kernel must not have: it would be loaded, and miss things.
    """

    name: str
    object: str
    needs: tuple[str, ...]
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Monitor:
    """One monitor.

    Attributes:
        name: As commands and the seed call it.
        title: One line for a person.
        events: Its ring.
        ring_bytes: Of that, by default.
        types: Names of records, by number.
        variants: The best first; the first whose needs the kernel meets and that it accepts is
            loaded.
        maps: Others that belong to it, by name.
    """

    name: str
    title: str
    events: str
    ring_bytes: int
    types: dict[int, str]
    variants: tuple[Variant, ...]
    maps: tuple[str, ...] = ()


def _tracepoints(*names: str) -> tuple[str, ...]:
    return tuple(f"btf_trace_{name}" for name in names)


_KMEM = _tracepoints(
    "kmalloc", "kfree", "mm_page_alloc", "mm_page_free",
    "softirq_entry", "softirq_exit", "irq_handler_entry", "irq_handler_exit",
)  # fmt: skip
_FILES = ("do_sys_openat2", "vfs_read", "vfs_readv", "vfs_write", "vfs_writev")
_SOCKETS = (
    "tcp_connect", "__ip4_datagram_connect", "__ip6_datagram_connect", "tcp_sendmsg",
    "tcp_recvmsg", "tcp_splice_read", "udp_sendmsg", "udp_recvmsg", "udpv6_sendmsg",
    "udpv6_recvmsg",
)  # fmt: skip

MONITORS = {
    one.name: one
    for one in (
        Monitor(
            "process-monitor", "programs that begin and end", "PROCESS_EVENTS", 1 << 20,
            {1: "exec", 2: "exit"},
            (Variant("portable", "process-monitor.bpf.o",
                     _tracepoints("sched_process_exec", "sched_process_exit")),),
            ("CMDLINE_BUF",),
        ),
        Monitor(
            "filesystem-monitor", "files that are opened, read, written and closed",
            "FS_EVENTS", 1 << 19,
            {1: "open", 2: "read", 3: "write", 4: "close"},
            (Variant("functions", "filesystem-monitor.functions.bpf.o", (*_FILES, "filp_flush")),
             Variant("functions-before-6.6", "filesystem-monitor.functions-old.bpf.o",
                     (*_FILES, "filp_close"), ("filp_flush",)),
             Variant("portable", "filesystem-monitor.bpf.o",
                     _tracepoints("sys_enter", "sys_exit"))),
            ("FILENAME_BUF",),
        ),
        Monitor(
            "network-monitor", "connections, and bytes sent and received", "NETWORK_EVENTS",
            1 << 19,
            {1: "connect", 2: "send", 3: "receive"},
            (Variant("with-sendpage", "network-monitor.with-sendpage.bpf.o",
                     (*_SOCKETS, "tcp_sendpage")),
             Variant("portable", "network-monitor.bpf.o", _SOCKETS, ("tcp_sendpage",)),
             Variant("tracepoints", "network-monitor.tracepoints.bpf.o",
                     _tracepoints("inet_sock_set_state", "sock_send_length", "sock_recv_length"))),
        ),
        Monitor(
            "memory-monitor", "kernel memory and pages, by process and size", "MEMORY_EVENTS",
            1 << 20,
            {1: "kmalloc", 2: "kfree", 3: "page-alloc", 4: "page-free"},
            (Variant("with-nodes", "memory-monitor.with-nodes.bpf.o",
                     (*_KMEM, *_tracepoints("kmalloc_node"))),
             Variant("portable", "memory-monitor.bpf.o", _KMEM,
                     _tracepoints("kmalloc_node"))),
            ("MEMORY_TOTALS",),
        ),
        Monitor(
            "disk-io-monitor", "block requests, with latency", "DISK_IO_EVENTS", 1 << 19,
            {1: "issue", 2: "complete", 3: "queue"},
            (Variant("portable", "disk-io-monitor.bpf.o",
                     _tracepoints("block_rq_issue", "block_rq_complete", "block_rq_requeue",
                                  "block_bio_queue", "block_bio_complete",
                                  "block_split")),),
            ("PENDING_IO", "QUEUED_IO"),
        ),
    )
}  # fmt: skip


def find(names: tuple[str, ...] | list[str]) -> list[Monitor]:
    """Return monitors by name, all where none is named; ``memory`` is ``memory-monitor``.

    Raises:
        UsageError: There is no such monitor.
    """
    found = {}
    for name in names or MONITORS:
        one = MONITORS.get(name) or MONITORS.get(f"{name}-monitor")
        if one is None:
            raise UsageError(f"there is no monitor {name!r}", hint=f"one of: {', '.join(MONITORS)}")
        found[one.name] = one
    return list(found.values())
