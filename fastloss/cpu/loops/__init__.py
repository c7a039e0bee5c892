"""The loops on the CPU, one file a family."""
