"""A round of the federation without Ray: plan, device hosts, book-keeping, and a runner in one process."""
