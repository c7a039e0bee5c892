"""The decorator of losses, and the transforms."""
