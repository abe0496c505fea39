"""Events and metrics, decoded from what the kernel reports."""
