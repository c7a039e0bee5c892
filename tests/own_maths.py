"""Maths of losses of one's own over rows, for tests in this process and as a part of scripts."""

from fastloss.custom import maths


@maths
def brier_terms(entry, row, p):
    d = entry.p - type(entry.p)(1) if entry.hit else entry.p
    return d * d, entry.p * d, entry.p * entry.p


@maths
def brier_value(row, p):
    return p.factor * row.sums[0]


@maths
def brier_grad(entry, row, p):
    one = type(entry.p)(1)
    d = entry.p - one if entry.hit else entry.p
    pull, twice = d - row.sums[1], p.factor * (entry.p + entry.p)
    rest = one - entry.p - entry.p
    return (twice * pull,), twice * (rest * pull + entry.p * (rest + row.sums[2]))
