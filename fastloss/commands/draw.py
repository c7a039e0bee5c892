"""``fastloss plot``: pictures of losses."""


def main(a):
    return 0
