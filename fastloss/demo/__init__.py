"""What ``fastloss demo`` shows: a classifier fitted with SciPy, a large batch scored, a picture of both."""
