"""Settings, dtypes, threads, memory, compiling and caching."""
