"""The only code that touches the kernel: bpf(2), bpffs, bpftool, features."""
