"""Arrays in files, read and written by blocks of rows."""
