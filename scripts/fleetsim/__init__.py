"""Light hosts on this machine: namespaces with an sshd, a network and a BPF file system each."""
