"""Files and directories by descriptors: walks, removal, locks, atomic files."""
