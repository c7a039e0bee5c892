"""The calling path: from a description to a plan, and from the plan to results."""
