"""The five monitors: what processes, files, the network, memory and disks do."""
