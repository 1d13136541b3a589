"""One request of our own user: plan, seal, stream, fail over, cancel."""
