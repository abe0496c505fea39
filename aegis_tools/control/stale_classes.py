"""Why a rule or a map entry is stale; apart from the search, so that help costs nothing."""

from __future__ import annotations

CLASSES = {
    "inode-gone": "the file or directory that an entry was made for is not there any more",
    "inode-reused": "another file has its inode number now (the generation differs)",
    "path-moved": "the path leads to another file now; the rule still holds by name",
    "unmounted": "its file system is not mounted",
    "not-hit": "with --older-than: no match for that long (never hit counts from its start)",
    "duplicate": "made by hand, and another rule denies all of it as strictly",
}
