"""The maths of every loss: scalar functions that return value and derivatives together."""
