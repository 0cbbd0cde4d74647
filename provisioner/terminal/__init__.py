"""What people see: progress, tables, escaping."""
