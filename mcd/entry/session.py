"""One request of our user: plan, seal, stream, fail over."""
