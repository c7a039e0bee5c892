"""The loops on CUDA devices, one file a family."""
