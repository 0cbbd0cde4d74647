"""Who owns what: the policy, what the disk can't hold, and the records of it."""
