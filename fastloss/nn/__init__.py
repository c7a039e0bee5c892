"""The loss classes, as in ``torch.nn``."""
