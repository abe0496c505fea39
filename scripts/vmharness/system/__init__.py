"""Whole systems for the tests: Debian 12 with systemd, sshd and its own GRUB, on an emulated PC.

``recipe`` says what is on the disk (pure), ``image`` makes the disk, ``package`` our program's
folder, ``snapshot`` a machine that has booted with both, ``qemu`` starts one, ``machine`` is what a
test holds: commands over SSH, reboots, power cuts, suspension.
"""
