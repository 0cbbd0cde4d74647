"""The launch script that is copied beside every rootfs, and the programs that developers run."""
