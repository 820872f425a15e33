"""A user's own data: files to records, columns to roles, records to a task."""
