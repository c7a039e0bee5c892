"""Losses of Dask arrays: nothing to call here, since every loss of fastloss takes them, and returns lazy results."""
