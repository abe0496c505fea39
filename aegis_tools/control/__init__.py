"""What changes a host: commit, block, mode, reset, history."""
