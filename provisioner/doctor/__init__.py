"""What this machine can do for provision, found out by trying."""
