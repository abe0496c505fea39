"""What the next boot asks the kernel for: ``lsm=``, read and changed through the boot loader.

lsmlist    lists of security modules
cmdline    kernel command lines, as the kernel reads them
entries    what a boot loader offers
grub       Debian's GRUB: the generated menu, the settings it is made of, our drop-in
grubby     Fedora and RHEL: entries by ``grubby``
facts      all of it, read from this host
plan       what enable and disable would do; no effects
verify     whether the result is what was wanted; no effects
record     what was there before us
regenerate, entrychange   carry a plan out, by GRUB and by grubby
change     the commands
"""
