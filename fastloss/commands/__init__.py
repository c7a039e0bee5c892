"""What the sub-commands of ``fastloss`` do; each file has one, and the rest serves several."""
