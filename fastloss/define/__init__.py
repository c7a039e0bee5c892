"""What a loss is written in: the mark of its maths, descriptions, options, the registry."""
