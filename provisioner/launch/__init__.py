"""start.sh: its settings, its parts, its seccomp filter."""
