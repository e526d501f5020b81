//! Full disks, read-only mounts, sizes at both ends.
