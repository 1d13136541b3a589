"""One inbound exchange: admit or refuse, feed the engine; and our own announced record."""
